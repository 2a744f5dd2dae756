// Owns the sequences that leave this instance: asks for room, pushes blocks while later ones are computed, hands over.
import { create } from '@bufbuild/protobuf';
import { bytesOfDigests } from '../../common/block-digest.ts';
import type { Refusal } from '../../common/errors.ts';
import { bytesOfInt32, int32OfBytes } from '../../contract/codec.ts';
import {
  CancelTransferSchema,
  GroupPagesSchema,
  HandOverSchema,
  type Pair,
  RecallSchema,
  type ReturnedPages,
  ReserveSchema,
  type SubmitRequest,
  SubmitRequestSchema,
  type TargetMessage,
} from '../../contract/generated/xllm_pb.js';
import type { ContractSecurity } from '../../contract/grpc.ts';
import type { KvCache } from '../kv/kv-cache.ts';
import type { BlockRun } from '../kv/kv-exchange.ts';
import type { PageStore } from '../kv/spaces/page-store.ts';
import type { MovingSequence } from '../scheduler/moving.ts';
import type { Scheduler } from '../scheduler/scheduler.ts';
import type { SequenceUpdate } from '../scheduler/spec.ts';
import type { TransferFigures } from './figures.ts';
import type { KvTransport, PushedBlock } from './kv-transport.ts';
import { nextOutgoing, type OutgoingAction, type OutgoingEvent, type OutgoingState } from './outgoing-state.ts';
import { answerMs, avoidMs, beatMs } from './pairing-limits.ts';
import type { TcpListener } from './tcp-listener.ts';
import { SourcePairing, type Target } from './source-pairing.ts';

export interface OutgoingOptions {
  readonly scheduler: Pick<Scheduler, 'hold' | 'release' | 'moving' | 'handOver' | 'fail'>;
  readonly kv: KvCache;
  readonly pages: PageStore;
  readonly security: ContractSecurity;
  /** Where targets on other hosts fetch blocks, and under which name they reach it. */
  readonly listener: TcpListener;
  readonly advertisedHost: string;
  /** Whether instances of this host map each other's pools. */
  readonly mapsPools: boolean;
  readonly figures: TransferFigures;
  /** What this instance says of itself to that target. */
  readonly pair: (target: Target) => Pair;
  readonly publish: (update: SequenceUpdate) => void;
  /** A sequence that was to move stays after all. */
  readonly onStay: (id: number) => void;
  /** Something may run again. */
  readonly wake: () => void;
  readonly nowMs: () => number;
}

interface Transfer {
  /** Of the sequence here. */
  readonly id: number;
  readonly number: bigint;
  readonly request: SubmitRequest;
  readonly choice: number;
  readonly pairing: SourcePairing;
  /** It goes on decoding here while its blocks travel, and is held for the last ones only. */
  readonly isLive: boolean;
  /** Live, and not held yet. */
  isFree: boolean;
  /** Calls of `push` that are not done. */
  numPushing: number;
  /** Positions that the target has room for. */
  numReserved: number;
  state: OutgoingState;
  /** First block that has not been pushed, and that the target lacks. */
  nextBlock: number;
  /** Lent or given with the hand-over, until the target has answered. */
  offered: readonly BlockRun[];
  askedMs: number;
}

/** Below this share of free pages what was lent is called back. */
const shortShare = 0.05;
/** Tokens that a sequence may generate here while its blocks are sent. */
const liveRoom = 128;
/** Tokens that may still come once it is held. */
const stepsInFlight = 2;

export class Outgoing {
  readonly #options: OutgoingOptions;
  readonly #pairings = new Map<string, SourcePairing>();
  /** Over, but the target may still read or write our pages. */
  readonly #orphans = new Set<SourcePairing>();
  readonly #transfers = new Map<bigint, Transfer>();
  readonly #bySequence = new Map<number, Transfer>();
  /** Over for us, but offered: should the target not have taken it, its pages are ours again. */
  readonly #unanswered = new Map<bigint, Transfer>();
  /** By incarnation: targets that could not be reached, and until when nobody is sent there. */
  readonly #avoided = new Map<string, number>();
  readonly #timer: NodeJS.Timeout;
  #numTransfers = 0n;

  constructor(options: OutgoingOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#tick(), beatMs).unref();
  }

  /**
   * The sequence is to go on at `target` after its first token, or, live, whatever it has come to: it then goes on here
   * until nearly all of its KV is there. Until it has been taken there it is ours, and where it is not taken it stays.
   */
  begin(id: number, request: SubmitRequest, choice: number, target: Target, isLive = false): void {
    const { scheduler, onStay, figures, nowMs } = this.#options;
    if (this.#bySequence.has(id)) {
      onStay(id);
      return;
    }
    if (nowMs() < (this.#avoided.get(target.incarnation) ?? 0)) {
      figures.numKept++;
      if (isLive) onStay(id);
      return;
    }
    if (!isLive) scheduler.hold(id);
    const transfer: Transfer = {
      id,
      number: ++this.#numTransfers,
      request,
      choice,
      pairing: this.#pairingWith(target),
      isLive,
      isFree: isLive,
      numPushing: 0,
      numReserved: 0,
      state: 'queued',
      nextBlock: 0,
      offered: [],
      askedMs: Number.POSITIVE_INFINITY,
    };
    this.#transfers.set(transfer.number, transfer);
    this.#bySequence.set(id, transfer);
    // What stands still gets no row that would begin it.
    if (isLive && transfer.pairing.transport && scheduler.moving(id)?.kv) this.#turn(transfer, 'begun');
  }

  /** These sequences have rows in the step that was just planned. */
  planned(sequenceIds: readonly number[]): void {
    if (this.#transfers.size === 0) return;
    for (const id of sequenceIds) {
      const transfer = this.#bySequence.get(id);
      if (transfer?.state === 'queued' && transfer.pairing.transport) this.#turn(transfer, 'begun');
    }
  }

  /** A step was committed. */
  committed(): void {
    for (const transfer of this.#transfers.values()) this.#advance(transfer);
    this.#recall();
  }

  /** The service wants no hand-off any more. */
  keep(id: number): void {
    this.#turnOf(id, 'kept');
  }

  ended(id: number): void {
    this.#turnOf(id, 'ended');
  }

  /** Transfers under way. */
  get numOpen(): number {
    return this.#transfers.size;
  }

  /** Asks all for what they were lent: the instance is about to leave. */
  recallAll(): void {
    for (const pairing of this.#pairings.values())
      if (pairing.leases.numPages > 0) pairing.send({ case: 'recall', value: create(RecallSchema) });
  }

  close(): void {
    clearInterval(this.#timer);
    for (const pairing of this.#pairings.values()) pairing.end('the instance closes');
    this.#options.listener.close();
  }

  #pairingWith(target: Target): SourcePairing {
    const known = this.#pairings.get(target.incarnation);
    if (known) return known;
    const { security, pages, pair, listener, advertisedHost, mapsPools } = this.#options;
    const isLocal = target.address.startsWith('unix:') && mapsPools && pages.files !== null;
    const pairing: SourcePairing = new SourcePairing({
      target,
      pair: pair(target),
      listener: isLocal ? null : listener,
      advertisedHost,
      security,
      view: (group, page) => pages.view(group, page),
      onMessage: (message) => this.#hear(pairing, message),
      onOpened: () => {
        // It has let go of all that it had by an earlier pairing, or it would not have agreed to another.
        for (const orphan of this.#orphans)
          if (orphan.target.incarnation === target.incarnation) this.#reclaim(orphan, true);
        for (const transfer of this.#transfers.values())
          if (transfer.pairing === pairing && this.#options.scheduler.moving(transfer.id)?.kv)
            this.#turn(transfer, 'begun');
      },
      onOver: () => {
        this.#pairings.delete(target.incarnation);
        this.#avoided.set(target.incarnation, this.#options.nowMs() + avoidMs);
        if (pairing.leases.numPages > 0) this.#orphans.add(pairing);
        for (const [number, transfer] of this.#unanswered)
          if (transfer.pairing === pairing) this.#unanswered.delete(number);
        for (const transfer of this.#transfers.values()) if (transfer.pairing === pairing) this.#turn(transfer, 'lost');
        this.#tick();
      },
    });
    this.#pairings.set(target.incarnation, pairing);
    return pairing;
  }

  #hear(pairing: SourcePairing, message: TargetMessage['kind']): void {
    if (message.case === 'returned') {
      this.#takeReturned(pairing, message.value);
      return;
    }
    if (message.case !== 'reserved' && message.case !== 'taken') return;
    const { transfer: number, refused } = message.value;
    const unanswered = this.#unanswered.get(number);
    if (unanswered?.pairing === pairing) {
      this.#unanswered.delete(number);
      if (refused !== '') this.#takeBack(pairing, unanswered.offered);
    }
    const transfer = this.#transfers.get(number);
    if (!transfer || transfer.pairing !== pairing) return;
    if (refused !== '') this.#turn(transfer, 'refused');
    else if (message.case === 'taken') this.#turn(transfer, 'taken');
    else {
      transfer.nextBlock = message.value.numHeldBlocks;
      transfer.askedMs = Number.POSITIVE_INFINITY;
      this.#turn(transfer, 'reserved');
      this.#advance(transfer);
    }
  }

  #turnOf(id: number, event: OutgoingEvent): void {
    const transfer = this.#bySequence.get(id);
    if (transfer) this.#turn(transfer, event);
  }

  #turn(transfer: Transfer, event: OutgoingEvent): void {
    const turn = nextOutgoing(transfer.state, event);
    if (!turn) return;
    const isUnanswered = transfer.state === 'offered' && (event === 'kept' || event === 'ended');
    if (isUnanswered) this.#unanswered.set(transfer.number, transfer);
    transfer.state = turn.to;
    if (turn.to === 'over') {
      this.#transfers.delete(transfer.number);
      if (this.#bySequence.get(transfer.id) === transfer) this.#bySequence.delete(transfer.id);
    }
    // Refused: the target has nothing of it. Otherwise it has taken the pages, or may have.
    if (event === 'refused') this.#takeBack(transfer.pairing, transfer.offered);
    for (const action of turn.actions) this.#act(transfer, action);
  }

  #act(transfer: Transfer, action: OutgoingAction): void {
    const { scheduler, publish, wake, onStay, figures } = this.#options;
    const { id, number, pairing } = transfer;
    switch (action) {
      case 'reserve':
        this.#reserve(transfer);
        return;
      case 'offer':
        this.#offer(transfer);
        return;
      case 'keep':
        figures.numKept++;
        scheduler.release(id);
        if (transfer.isLive) onStay(id);
        wake();
        return;
      case 'cancel':
        pairing.send({ case: 'cancel', value: create(CancelTransferSchema, { transfer: number }) });
        return;
      case 'hand over':
      case 'fail': {
        if (action === 'hand over') figures.numHandedOver++;
        const update = action === 'hand over' ? scheduler.handOver(id) : scheduler.fail(id, lostOnTheWay);
        if (update) publish(update);
        wake();
      }
    }
  }

  #reserve(transfer: Transfer): void {
    const { scheduler, nowMs } = this.#options;
    const { request, choice, number, pairing } = transfer;
    const sequence = scheduler.moving(transfer.id);
    if (!sequence) return;
    const { spec, generatedIds } = sequence;
    transfer.askedMs = nowMs();
    const record = create(SubmitRequestSchema, {
      ...request,
      seeds: [spec.seed],
      generatedIds: [bytesOfInt32(generatedIds)],
      // What there is to say of the prompt is said here.
      ...(request.sampling ? { sampling: { ...request.sampling, numPromptLogprobs: -1 } } : {}),
      deadlineMs: this.#leftMs(sequence),
    });
    delete record.handOff;
    const numPrompt = spec.promptIds.length;
    const numKnown = numPrompt + generatedIds.length;
    // While blocks are sent more come; lent ones need no room.
    const numTokens = transfer.isLive ? Math.min(numKnown + liveRoom, numPrompt + spec.params.maxTokens) : numKnown;
    transfer.numReserved = numTokens;
    pairing.send({
      case: 'reserve',
      value: create(ReserveSchema, { transfer: number, request: record, choice, numTokens }),
    });
  }

  /** Pushes what is finished; hands over what stands still. */
  #advance(transfer: Transfer): void {
    const { scheduler, kv } = this.#options;
    const { transport } = transfer.pairing;
    if (transfer.state !== 'moving' || !transport) return;
    const sequence = scheduler.moving(transfer.id);
    if (!sequence) return;
    if (!sequence.kv) {
      // Preempted, and not just waiting for its first row: it would have to be computed anew before it could be held.
      const hasBegun = sequence.generatedIds.length > sequence.spec.generatedIds.length;
      if (transfer.isLive || hasBegun) this.#turn(transfer, 'kept');
      return;
    }
    // What it runs on is not all ours yet: it is copied as it decodes on.
    if (kv.exchange.hasForeign(sequence.kv)) return;
    if (!transport.lends) {
      const end = Math.floor(sequence.numComputed / kv.blockTokens);
      if (end > transfer.nextBlock) this.#push(transfer, transport, sequence, end * kv.blockTokens);
    }
    if (transfer.isFree && this.#isNearlyThere(transfer, sequence)) {
      transfer.isFree = false;
      scheduler.hold(transfer.id, true);
      // Nothing of it may be in flight.
      this.#advance(transfer);
      return;
    }
    if (sequence.isSettled) this.#turn(transfer, 'settled');
  }

  /** What is left to travel is less than what its last steps here compute. */
  #isNearlyThere({ pairing, numPushing, numReserved }: Transfer, sequence: MovingSequence): boolean {
    const numTokens = sequence.spec.promptIds.length + sequence.generatedIds.length;
    // Held in the middle of its prompt it would never stand still with all of it computed.
    if (numTokens - sequence.numComputed > 1 + stepsInFlight) return false;
    return pairing.transport?.lends === true || numPushing === 0 || numTokens + stepsInFlight >= numReserved;
  }

  /** Sends the blocks from `nextBlock` to that of position `numTokens - 1`. */
  #push(transfer: Transfer, transport: KvTransport, { kv: held, digests }: MovingSequence, numTokens: number): void {
    const { kv, figures, pages } = this.#options;
    if (!held) return;
    const runs = kv.exchange.blocks(held, transfer.nextBlock, numTokens);
    transfer.nextBlock = Math.floor(numTokens / kv.blockTokens);
    const blocks = runs.flatMap(({ firstBlock, pages: run }, group): PushedBlock[] =>
      Array.from(run, (page, i) => {
        const block = firstBlock + i;
        const isFull = (block + 1) * kv.blockTokens <= numTokens;
        return { transfer: transfer.number, group, block, page, digest: isFull ? (digests[block] ?? '') : '' };
      }),
    );
    figures.numBlocksPushed += blocks.length;
    figures.numBytesPushed += blocks.reduce((sum, { group }) => sum + (pages.pageBytes[group] ?? 0), 0);
    kv.exchange.lend(runs);
    transfer.numPushing++;
    transport
      .push(blocks)
      .catch(() => {
        // The pairing is over, and says so itself.
      })
      .finally(() => {
        for (const { group, page } of blocks) kv.exchange.takeBack(group, page);
        transfer.numPushing--;
        this.#advance(transfer);
      });
  }

  #offer(transfer: Transfer): void {
    const { scheduler, kv, figures } = this.#options;
    const { number, pairing, nextBlock } = transfer;
    const sequence = scheduler.moving(transfer.id);
    const { transport } = pairing;
    if (!sequence?.kv || !transport) return;
    const { numComputed, digests, generatedIds } = sequence;
    const numFull = Math.floor(numComputed / kv.blockTokens);
    let groups: readonly BlockRun[];
    if (transport.lends) {
      groups = kv.exchange.blocks(sequence.kv, nextBlock, numComputed);
      kv.exchange.lend(groups);
      forEachPage(groups, (group, page, block) => {
        pairing.leases.add({ group, page, isGiven: block >= numFull });
        figures.numBlocksLent++;
      });
      transfer.offered = groups;
    } else {
      groups = kv.exchange.blocks(sequence.kv, 0, numComputed);
      if (numComputed > nextBlock * kv.blockTokens) this.#push(transfer, transport, sequence, numComputed);
    }
    pairing.send({
      case: 'handOver',
      value: create(HandOverSchema, {
        transfer: number,
        generatedIds: bytesOfInt32(generatedIds),
        numComputed,
        digests: bytesOfDigests(digests.slice(0, numFull)),
        deadlineMs: this.#leftMs(sequence),
        groups: groups.map(({ firstBlock, pages }) =>
          create(GroupPagesSchema, {
            firstBlock,
            numBlocks: pages.length,
            ...(transport.lends ? { pages: bytesOfInt32(pages) } : {}),
          }),
        ),
      }),
    });
  }

  #leftMs({ spec }: MovingSequence): number {
    if (spec.deadlineMs === Number.POSITIVE_INFINITY) return 0;
    return Math.max(1, Math.ceil(spec.deadlineMs - this.#options.nowMs()));
  }

  #takeReturned({ leases }: SourcePairing, { pages }: ReturnedPages): void {
    const { kv, wake } = this.#options;
    pages.forEach((bytes, group) => {
      for (const page of int32OfBytes(bytes)) if (leases.remove(group, page)) kv.exchange.takeBack(group, page);
    });
    wake();
  }

  #takeBack({ leases }: SourcePairing, runs: readonly BlockRun[]): void {
    const { kv } = this.#options;
    forEachPage(runs, (group, page) => {
      if (leases.remove(group, page)) kv.exchange.takeBack(group, page);
    });
  }

  #reclaim(pairing: SourcePairing, givenToo: boolean): void {
    for (const { group, page } of pairing.leases.removeAll(givenToo)) this.#options.kv.exchange.takeBack(group, page);
    if (pairing.leases.numPages === 0) this.#orphans.delete(pairing);
    this.#options.wake();
  }

  #recall(): void {
    const { kv } = this.#options;
    if (kv.exchange.numLent === 0) return;
    const isShort = kv
      .stats()
      .groups.some(({ numPages, numFree, numReusable }) => numFree + numReusable < shortShare * numPages);
    if (!isShort) return;
    this.recallAll();
  }

  #tick(): void {
    for (const orphan of this.#orphans) {
      if (orphan.isTargetGone) this.#reclaim(orphan, true);
      else {
        if (orphan.hasLeaseEnded) this.#reclaim(orphan, false);
        // Given pages come back when the target agrees to another pairing.
        if (orphan.leases.numPages > 0) this.#pairingWith(orphan.target);
      }
    }
    const nowMs = this.#options.nowMs();
    for (const transfer of this.#transfers.values()) {
      if (transfer.state !== 'reserving' || nowMs - transfer.askedMs < answerMs) continue;
      transfer.pairing.send({ case: 'cancel', value: create(CancelTransferSchema, { transfer: transfer.number }) });
      this.#avoided.set(transfer.pairing.target.incarnation, nowMs + avoidMs);
      this.#turn(transfer, 'refused');
    }
    for (const [incarnation, untilMs] of this.#avoided) if (untilMs < nowMs) this.#avoided.delete(incarnation);
  }
}

const lostOnTheWay: Refusal = {
  refused: 'engine_lost',
  message: 'the instance that was to go on with it was lost on the way; it is safe to retry',
  retryAfterS: 1,
};

function forEachPage(runs: readonly BlockRun[], visit: (group: number, page: number, block: number) => void): void {
  runs.forEach(({ firstBlock, pages }, group) => pages.forEach((page, i) => visit(group, page, firstBlock + i)));
}
