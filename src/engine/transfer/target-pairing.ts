// Owns the target's end of one pairing: who is paired, what was reserved for it, and until when its pages may be read.
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  type Pair,
  PairedSchema,
  PairingBeatSchema,
  type SourceMessage,
  type TargetMessage,
  TargetMessageSchema,
} from '../../contract/generated/xllm_pb.js';
import type { ReplyStream } from '../../contract/grpc.ts';
import { hostNowNs } from './host-clock.ts';
import type { BlockAddress, KvIntake } from './kv-transport.ts';
import { beatMs, leaseMs, marginMs } from './pairing-limits.ts';
import type { TcpReader } from './tcp-reader.ts';
import type { Reservation } from './reservation.ts';

export interface TargetPairingHost {
  /** Agrees, or says why not; resolves once nothing of an earlier pairing with the same source is in use. */
  pair(pairing: TargetPairing, pair: Pair): Promise<MessageInitShape<typeof PairedSchema>>;
  hear(pairing: TargetPairing, message: SourceMessage['kind']): void;
  place(pairing: TargetPairing, address: BlockAddress, numBytes: number, digest: string): Uint8Array | null;
  placed(pairing: TargetPairing, address: BlockAddress, digest: string): void;
  over(pairing: TargetPairing, reason: string): void;
}

export class TargetPairing implements KvIntake {
  readonly reservations = new Map<bigint, Reservation>();
  /** Of the source; '' before it has said. */
  incarnation = '';
  /** Number of its pools here; 0: they are not mapped. */
  pool = 0;
  /** [G] pages of its pools. */
  numPages: readonly number[] = [];
  /** Pages of it that sequences here use. */
  numForeign = 0;
  /** The connection for blocks; null: there is none. */
  reader: TcpReader | null = null;
  readonly #host: TargetPairingHost;
  readonly #stream: ReplyStream<TargetMessage>;
  readonly #timer: NodeJS.Timeout;
  #heardMs = performance.now();
  #leaseEndNs = 0n;
  #isOver = false;

  constructor(
    host: TargetPairingHost,
    requests: { onMessage(listener: (message: SourceMessage) => void): void },
    stream: ReplyStream<TargetMessage>,
  ) {
    this.#host = host;
    this.#stream = stream;
    requests.onMessage(({ kind }) => this.#hear(kind));
    stream.onClose(() => this.end('the source ended the pairing'));
    this.#timer = setInterval(() => this.#beat(), beatMs).unref();
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** What was read of lent pages until now is as it was lent. */
  get isLeaseGood(): boolean {
    return hostNowNs() < this.#leaseEndNs;
  }

  /** No step is to begin that reads lent pages. */
  get isLeaseEnding(): boolean {
    return hostNowNs() > this.#leaseEndNs - BigInt(marginMs) * 1_000_000n;
  }

  send(kind: TargetMessage['kind']): void {
    if (!this.#isOver) this.#stream.write(create(TargetMessageSchema, { kind }));
  }

  end(reason: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearInterval(this.#timer);
    this.#stream.end();
    this.reader?.close();
    this.#host.over(this, reason);
  }

  place(address: BlockAddress, numBytes: number, digest: string): Uint8Array | null {
    return this.#host.place(this, address, numBytes, digest);
  }

  placed(address: BlockAddress, digest: string): void {
    this.#host.placed(this, address, digest);
  }

  failed(error: Error): void {
    this.end(error.message);
  }

  #hear(kind: SourceMessage['kind']): void {
    if (this.#isOver) return;
    this.#heardMs = performance.now();
    if (kind.case === 'pair') void this.#pair(kind.value);
    else if (kind.case === 'beat') this.#leaseEndNs = kind.value.leaseEndNs;
    else if (this.incarnation !== '') this.#host.hear(this, kind);
  }

  async #pair(pair: Pair): Promise<void> {
    // A second one changes nothing.
    if (this.incarnation !== '') return;
    const paired = create(PairedSchema, await this.#host.pair(this, pair));
    if (paired.refused === '') this.incarnation = pair.incarnation;
    // Until the first beat.
    this.#leaseEndNs = hostNowNs() + BigInt(leaseMs) * 1_000_000n;
    this.send({ case: 'paired', value: paired });
  }

  #beat(): void {
    const silentMs = performance.now() - this.#heardMs;
    if (silentMs > leaseMs) this.end(`nothing was heard of the source for ${Math.round(silentMs)} ms`);
    else this.send({ case: 'beat', value: create(PairingBeatSchema) });
  }
}
