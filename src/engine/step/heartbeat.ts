// Owns the heartbeats to one replica: what the engine bears right now, four times a second for as long as the replica listens.
import { create } from '@bufbuild/protobuf';
import { type Heartbeat, HeartbeatSchema, type StatusReply } from '../../contract/generated/xllm_pb.js';
import type { ReplyStream } from '../../contract/grpc.ts';

const INTERVAL_MS = 250;

export interface HeartbeatSource {
  readonly incarnation: string;
  status(): StatusReply;
  /** Submissions of the replica since its step stream began. */
  numSubmits(): number;
}

export class Heartbeats {
  readonly #source: HeartbeatSource;
  readonly #stream: ReplyStream<Heartbeat>;
  readonly #timer: NodeJS.Timeout;
  #number = 0n;
  #maxTtftMs = 0;
  #maxTokenGapMs = 0;

  constructor(source: HeartbeatSource, stream: ReplyStream<Heartbeat>) {
    this.#source = source;
    this.#stream = stream;
    this.#timer = setInterval(() => this.send(), INTERVAL_MS);
    this.send();
  }

  firstToken(ttftMs: number): void {
    this.#maxTtftMs = Math.max(this.#maxTtftMs, ttftMs);
  }

  tokenGap(gapMs: number): void {
    this.#maxTokenGapMs = Math.max(this.#maxTokenGapMs, gapMs);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Also out of turn, where something is worth knowing at once. */
  send(): void {
    const { incarnation } = this.#source;
    this.#stream.write(
      create(HeartbeatSchema, {
        incarnation,
        number: ++this.#number,
        status: this.#source.status(),
        maxTtftMs: this.#maxTtftMs,
        maxTokenGapMs: this.#maxTokenGapMs,
        numSubmits: BigInt(this.#source.numSubmits()),
      }),
    );
    this.#maxTtftMs = this.#maxTokenGapMs = 0;
  }
}
