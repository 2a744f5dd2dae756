// Owns the sequences that come to this instance: makes room, takes blocks in, checks them, and has the scheduler go on.
import {
  type BlockDigest,
  BlockHasher,
  bytesOfDigests,
  type DigestSeed,
  rootDigest,
} from '../../common/block-digest.ts';
import { invariant, isRefusal, type Refusal, XllmError } from '../../common/errors.ts';
import { bytesOfInt32, int32OfBytes } from '../../contract/codec.ts';
import {
  type HandOver,
  type Pair,
  type PairedSchema,
  type Reserve,
  ReservedSchema,
  ReturnedPagesSchema,
  type SourceMessage,
  type SubmitRequest,
  TakenSchema,
  type TargetMessage,
} from '../../contract/generated/xllm_pb.js';
import type { ContractSecurity, ReplyStream } from '../../contract/grpc.ts';
import { PROTOCOL_VERSION } from '../../contract/protocol.ts';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { KvCache } from '../kv/kv-cache.ts';
import { maxForeignPools, pageRef } from '../kv/page-ref.ts';
import type { PageStore } from '../kv/spaces/page-store.ts';
import type { Scheduler } from '../scheduler/scheduler.ts';
import type { ImportedKv } from '../scheduler/sequence.ts';
import type { SequenceSpec, SequenceUpdate } from '../scheduler/spec.ts';
import type { TransferFigures } from './figures.ts';
import { ForeignUsers } from './foreign-users.ts';
import type { BlockAddress } from './kv-transport.ts';
import { answerMs } from './pairing-limits.ts';
import { faultOf, type Reservation } from './reservation.ts';
import { TargetPairing, type TargetPairingHost } from './target-pairing.ts';
import { TcpReader } from './tcp-reader.ts';

type SpecBody = Omit<SequenceSpec, 'id' | 'group'>;

/** Where the sequences of requests are kept. */
export interface Adopter {
  /** Why the choice may not come; null: it may. */
  refusalOf(request: SubmitRequest, choice: number): Refusal | null;
  /** A record's one sequence, checked. */
  specOf(request: SubmitRequest): SpecBody | Refusal;
  /** The sequence's id here, or why not. */
  adopt(request: SubmitRequest, choice: number, spec: SpecBody, imported: ImportedKv): number | Refusal;
}

export interface IncomingOptions {
  readonly incarnation: string;
  /** What pairs must agree on. */
  readonly identity: { readonly model: string; readonly numericsId: string; readonly kvLayout: string };
  /** '': pools of others are never mapped. */
  readonly host: string;
  readonly scheduler: Pick<Scheduler, 'moving' | 'recompute' | 'fail' | 'stats'>;
  readonly kv: KvCache;
  readonly pages: PageStore;
  readonly usesPrefixCache: boolean;
  readonly adopter: Adopter;
  readonly security: ContractSecurity;
  readonly figures: TransferFigures;
  readonly publish: (update: SequenceUpdate) => void;
  readonly wake: () => void;
}

export class Incoming implements TargetPairingHost {
  readonly #options: IncomingOptions;
  readonly #users: ForeignUsers<TargetPairing>;
  readonly #pairings = new Set<TargetPairing>();
  readonly #pools = new Map<number, TargetPairing>();
  /** Handed over, and waiting for blocks that are on their way. */
  readonly #pending = new Map<Reservation, HandOver>();
  readonly #hasher: BlockHasher;

  constructor(options: IncomingOptions) {
    this.#options = options;
    this.#hasher = new BlockHasher(options.kv.blockTokens);
    const { kv, pages, figures, scheduler } = options;
    this.#users = new ForeignUsers({
      kv,
      pages,
      figures,
      moving: (id) => scheduler.moving(id),
      numHeadroom: () => scheduler.stats().numRunning + 1,
      giveBack: (pairing, returned) => {
        pairing.send({
          case: 'returned',
          value: create(ReturnedPagesSchema, { pages: returned.map((of) => bytesOfInt32(Int32Array.from(of))) }),
        });
        this.#detachUnused(pairing);
      },
    });
  }

  /** Sequences that still use pages of others, and rooms kept for those to come. */
  get numOpen(): number {
    let numReserved = 0;
    for (const { reservations } of this.#pairings) numReserved += reservations.size;
    return this.#users.numUsers + numReserved;
  }

  accept(
    requests: { onMessage(listener: (message: SourceMessage) => void): void },
    stream: ReplyStream<TargetMessage>,
  ) {
    this.#pairings.add(new TargetPairing(this, requests, stream));
  }

  /** Before the next step is planned. */
  planning(): void {
    for (const id of this.#users.ending()) this.#options.scheduler.recompute(id);
  }

  planned(stepId: number): void {
    this.#users.planned(stepId);
  }

  /** Before the step's results are believed. */
  completed(sequenceIds: readonly number[]): void {
    const { scheduler, publish } = this.#options;
    for (const id of this.#users.spoiled(sequenceIds)) {
      const message = 'the pages that it read may have been written since; it is safe to retry';
      const update = scheduler.fail(id, { refused: 'engine_lost', message, retryAfterS: 1 });
      if (update) publish(update);
    }
  }

  committed(stepId: number): void {
    this.#users.committed(stepId);
  }

  flush(): void {
    this.#users.flush();
  }

  close(): void {
    for (const pairing of this.#pairings) pairing.end('the instance closes');
  }

  async pair(pairing: TargetPairing, pair: Pair): Promise<MessageInitShape<typeof PairedSchema>> {
    const { identity, incarnation, security } = this.#options;
    const refuse = (message: string) => ({ refused: 'engine_unavailable', message });
    if (pair.protocol !== PROTOCOL_VERSION)
      return refuse(`it speaks protocol ${pair.protocol}, this instance ${PROTOCOL_VERSION}`);
    if (pair.targetIncarnation !== incarnation) return refuse('another life of the instance answers at its address');
    const differing = (['model', 'numericsId', 'kvLayout'] as const).find((key) => pair[key] !== identity[key]);
    if (differing) return refuse(`${differing} is ${pair[differing]} there and ${identity[differing]} here`);
    if (!(await this.#hasLetGo(pair.incarnation))) return refuse('pages of an earlier pairing are still in use');
    if (pairing.isOver) return refuse('the pairing is over');
    if (this.#map(pairing, pair)) return { isMapped: true, pid: process.pid };
    if (pair.ticket.length === 0) return refuse('its pages can neither be mapped nor fetched');
    const { promise, resolve } = Promise.withResolvers<void>();
    pairing.reader = new TcpReader({ address: pair.address, ticket: pair.ticket, security }, pairing, resolve);
    // A connection that fails ends the pairing.
    await promise;
    return { isMapped: false };
  }

  hear(pairing: TargetPairing, message: SourceMessage['kind']): void {
    switch (message.case) {
      case 'reserve':
        void this.#reserve(pairing, message.value);
        return;
      case 'handOver':
        this.#handOver(pairing, message.value);
        return;
      case 'cancel': {
        const reservation = pairing.reservations.get(message.value.transfer);
        if (reservation) this.#cancel(pairing, reservation);
        return;
      }
      case 'recall':
        this.#users.recall();
    }
  }

  place(pairing: TargetPairing, { transfer, group, block }: BlockAddress, numBytes: number, digest: string) {
    const { pages } = this.#options;
    const reservation = pairing.reservations.get(transfer);
    if (numBytes !== pages.pageBytes[group])
      throw new XllmError('internal_error', `a block of group ${group} came with ${numBytes} bytes`);
    const list = reservation?.kv.lists[group];
    // A late block of what was cancelled, or one that a window has passed.
    if (!reservation || !list || block < Math.max(list.firstBlock, reservation.numHeld) || block >= list.numBlocks)
      return null;
    const known = reservation.digests[block];
    if (digest !== '' && known !== undefined && digest !== known)
      throw new XllmError('internal_error', `block ${block} came with the digest of another one`);
    return pages.view(group, list.pages[block]!);
  }

  placed(pairing: TargetPairing, { transfer, group, block }: BlockAddress, digest: string): void {
    const reservation = pairing.reservations.get(transfer);
    if (!reservation) return;
    reservation.arrived[group]?.set(block, digest);
    this.#options.figures.numBytesBeforeFirstStep += this.#options.pages.pageBytes[group] ?? 0;
    const handOver = this.#pending.get(reservation);
    if (handOver) this.#takeIfWhole(pairing, reservation, handOver);
  }

  over(pairing: TargetPairing): void {
    this.#pairings.delete(pairing);
    for (const reservation of pairing.reservations.values()) this.#cancel(pairing, reservation);
    this.#detachUnused(pairing);
  }

  /** Whether nothing of an earlier pairing with that life of the source is in use any more. */
  async #hasLetGo(incarnation: string): Promise<boolean> {
    const isHeld = () => [...this.#pools.values()].some((other) => other.incarnation === incarnation && other.isOver);
    for (let waitedMs = 0; isHeld() && waitedMs < answerMs / 2; waitedMs += POLL_MS)
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    return !isHeld();
  }

  #map(pairing: TargetPairing, { host, pools }: Pair): boolean {
    const { pages, kv } = this.#options;
    if (host === '' || host !== this.#options.host || pools.length !== pages.pageBytes.length) return false;
    if (pools.some(({ pageBytes }, g) => Number(pageBytes) !== pages.pageBytes[g])) return false;
    let pool = 1;
    while (this.#pools.has(pool)) pool++;
    if (pool > maxForeignPools) return false;
    try {
      pages.attach(
        pool,
        pools.map(({ pid, fd, device, inode, numBytes, pageBytes, numPages }) => ({
          pid,
          fd,
          device,
          inode,
          numBytes: Number(numBytes),
          pageBytes: Number(pageBytes),
          numPages,
        })),
      );
    } catch (error) {
      // Another user's process, or one of another namespace: blocks are sent then.
      if (error instanceof Error) return false;
      throw error;
    }
    invariant(kv.stats().groups.length === pools.length, 'a pool per cache group');
    pairing.pool = pool;
    pairing.numPages = pools.map(({ numPages }) => numPages);
    this.#pools.set(pool, pairing);
    return true;
  }

  #detachUnused(pairing: TargetPairing): void {
    if (!pairing.isOver || pairing.pool === 0 || pairing.numForeign > 0) return;
    this.#pools.delete(pairing.pool);
    this.#options.pages.detach(pairing.pool);
    pairing.pool = 0;
  }

  async #reserve(pairing: TargetPairing, { transfer, request, choice, numTokens }: Reserve): Promise<void> {
    const { kv, pages } = this.#options;
    const made = this.#makeRoom(pairing, transfer, request, choice, numTokens);
    const answer = (fields: MessageInitShape<typeof ReservedSchema>) =>
      pairing.send({ case: 'reserved', value: create(ReservedSchema, { transfer, ...fields }) });
    if (isRefusal(made)) {
      answer(made);
      return;
    }
    try {
      await pages.ensure(kv.exchange.numTouched);
    } catch (error) {
      if (!(error instanceof XllmError)) throw error;
      this.#cancel(pairing, made);
      answer({ refused: error.code, message: error.message });
      return;
    }
    if (pairing.reservations.get(transfer) === made) answer({ numHeldBlocks: made.numHeld });
  }

  #makeRoom(
    pairing: TargetPairing,
    transfer: bigint,
    request: SubmitRequest | undefined,
    choice: number,
    numWanted: number,
  ): Reservation | Refusal {
    const { kv, scheduler, adopter, usesPrefixCache } = this.#options;
    if (!request || pairing.reservations.has(transfer)) return invalid('the reservation has no record, or came twice');
    const refusal = adopter.refusalOf(request, choice);
    if (refusal) return refusal;
    const spec = adopter.specOf(request);
    if (isRefusal(spec)) return spec;
    const numTokens = spec.promptIds.length + spec.generatedIds.length;
    const root = this.#rootOf(request.cacheSalt);
    const digests: BlockDigest[] = [];
    this.#hasher.extend(digests, root, tokensOf(spec.promptIds, spec.generatedIds), numTokens);
    const numHeld = usesPrefixCache ? kv.match(digests, digests.length) : 0;
    const held = kv.exchange.tryReserve(digests, numHeld, Math.max(numTokens, numWanted), {
      numHeadroom: scheduler.stats().numRunning,
      attaches: pairing.pool > 0,
    });
    if (!held) return { refused: 'overloaded', message: 'there are no pages for it now', retryAfterS: 1 };
    const arrived = held.lists.map(() => new Map<number, string>());
    const reservation = { transfer, request, choice, spec, root, digests, kv: held, numHeld, arrived };
    pairing.reservations.set(transfer, reservation);
    return reservation;
  }

  #cancel(pairing: TargetPairing, reservation: Reservation): void {
    pairing.reservations.delete(reservation.transfer);
    this.#pending.delete(reservation);
    this.#options.kv.free(reservation.kv);
    this.#options.wake();
  }

  #handOver(pairing: TargetPairing, handOver: HandOver): void {
    const reservation = pairing.reservations.get(handOver.transfer);
    if (!reservation) {
      this.#answer(pairing, handOver.transfer, {
        refused: 'engine_unavailable',
        message: 'there is no such reservation (any more)',
      });
      return;
    }
    const fault = this.#faultOf(pairing, reservation, handOver);
    if (fault) this.#refuse(pairing, reservation, invalid(fault));
    else if (pairing.pool > 0) this.#attach(pairing, reservation, handOver);
    else this.#takeIfWhole(pairing, reservation, handOver);
  }

  /** What is wrong with the record itself; null: nothing. */
  #faultOf(pairing: TargetPairing, reservation: Reservation, handOver: HandOver): string | null {
    const { kv } = this.#options;
    const { spec, root, numHeld } = reservation;
    const { generatedIds, numComputed, digests, groups } = handOver;
    if (generatedIds.length % 4 !== 0) return 'generated_ids is not an array of i32';
    const generated = int32OfBytes(generatedIds);
    if (spec.promptIds.length + generated.length - 1 !== numComputed)
      return 'num_computed is not all but the last token';
    if (spec.generatedIds.some((id, i) => generated[i] !== id)) return 'it has other tokens than its reservation said';
    // Goes on from the digests of the record: in most hand-overs nothing is left to compute.
    this.#hasher.extend(reservation.digests, root, tokensOf(spec.promptIds, generated), numComputed);
    if (!Buffer.from(bytesOfDigests(reservation.digests)).equals(digests))
      return 'the digests are not those of the tokens';
    if (groups.length !== reservation.kv.lists.length) return 'there are other cache groups here';
    const numBlocks = Math.ceil(numComputed / kv.blockTokens);
    for (const [g, group] of groups.entries()) {
      const isShort = group.firstBlock + group.numBlocks !== numBlocks;
      if (isShort && !(group.numBlocks === 0 && numHeld >= numBlocks)) return 'blocks are missing';
      // Only a sliding window leaves blocks out, and only what was lacking comes by page.
      const firstWanted = Math.max(numHeld, kv.exchange.firstRead(g, numComputed));
      if (group.numBlocks > 0 && group.firstBlock > firstWanted) return 'blocks are missing';
      if (pairing.pool === 0) continue;
      if (group.numBlocks > 0 && group.firstBlock < firstWanted) return 'blocks come that were not lacking';
      if (group.pages.length !== 4 * group.numBlocks) return 'pages is not as long as it says';
      const limit = pairing.numPages[g] ?? 0;
      if (int32OfBytes(group.pages).some((page) => page < 0 || page >= limit)) return 'there is no such page';
    }
    return null;
  }

  #attach(pairing: TargetPairing, reservation: Reservation, handOver: HandOver): void {
    const { kv } = this.#options;
    this.#users.flush();
    handOver.groups.forEach(({ firstBlock, pages }, g) => {
      const refs = int32OfBytes(pages).map((page) => pageRef(pairing.pool, page));
      kv.exchange.attach(reservation.kv, g, { firstBlock, pages: refs });
      this.#users.used(pairing, refs.length);
    });
    this.#adopt(pairing, reservation, handOver);
  }

  #takeIfWhole(pairing: TargetPairing, reservation: Reservation, handOver: HandOver): void {
    const fault = faultOf(reservation, handOver.groups);
    if (fault === 'incomplete') {
      // Room was made for fewer positions: the rest was dropped, and will not come.
      const isBeyond = reservation.kv.lists.some(
        ({ numBlocks }) => numBlocks < Math.ceil(handOver.numComputed / this.#options.kv.blockTokens),
      );
      if (isBeyond) this.#refuse(pairing, reservation, invalid('more was computed than room was made for'));
      else this.#pending.set(reservation, handOver);
    } else if (fault) this.#refuse(pairing, reservation, invalid(fault));
    else this.#adopt(pairing, reservation, handOver);
  }

  #adopt(pairing: TargetPairing, reservation: Reservation, { generatedIds, numComputed, deadlineMs }: HandOver): void {
    const { adopter, kv, figures, wake } = this.#options;
    const { request, choice } = reservation;
    const spec = adopter.specOf({ ...request, generatedIds: [generatedIds], deadlineMs });
    const id = isRefusal(spec) ? spec : adopter.adopt(request, choice, spec, imported(reservation, numComputed));
    if (typeof id !== 'number') {
      this.#refuse(pairing, reservation, id);
      return;
    }
    pairing.reservations.delete(reservation.transfer);
    this.#pending.delete(reservation);
    if (kv.exchange.hasForeign(reservation.kv)) this.#users.add(id, pairing, reservation.kv, numComputed);
    figures.numTaken++;
    this.#answer(pairing, reservation.transfer, {});
    wake();
  }

  /** The source has its pages back with the answer. */
  #refuse(pairing: TargetPairing, reservation: Reservation, refusal: Refusal): void {
    if (pairing.pool > 0) this.#users.flush();
    this.#cancel(pairing, reservation);
    if (pairing.pool > 0) this.#users.disown(pairing);
    this.#answer(pairing, reservation.transfer, { refused: refusal.refused, message: refusal.message });
  }

  #answer(pairing: TargetPairing, transfer: bigint, fields: MessageInitShape<typeof TakenSchema>): void {
    pairing.send({ case: 'taken', value: create(TakenSchema, { transfer, ...fields }) });
  }

  #rootOf(salt: string): BlockDigest {
    const { kv, identity } = this.#options;
    const seed: DigestSeed = { ...identity, blockTokens: kv.blockTokens, adapter: '', salt };
    return rootDigest(seed);
  }
}

const POLL_MS = 50;

const invalid = (message: string): Refusal => ({ refused: 'invalid_request', message });

const imported = ({ kv, digests }: Reservation, numTokens: number): ImportedKv => ({ kv, digests, numTokens });

function tokensOf(promptIds: Int32Array, generatedIds: Int32Array): Int32Array {
  const tokens = new Int32Array(promptIds.length + generatedIds.length);
  tokens.set(promptIds);
  tokens.set(generatedIds, promptIds.length);
  return tokens;
}
