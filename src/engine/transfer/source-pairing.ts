// Owns the source's end of one pairing: the stream to the target, the transport beside it, and what the target has of us.
import { create } from '@bufbuild/protobuf';
import {
  Engine,
  type HandOffTarget,
  type Pair,
  type Paired,
  PairingBeatSchema,
  type SourceMessage,
  SourceMessageSchema,
  type TargetMessage,
} from '../../contract/generated/xllm_pb.js';
import { type ClientOf, ContractClient, type ContractSecurity, type DuplexHandle } from '../../contract/grpc.ts';
import { hostNowNs, startOf } from './host-clock.ts';
import type { KvTransport } from './kv-transport.ts';
import { Leases } from './leases.ts';
import { answerMs, beatMs, freshMs, leaseMs } from './pairing-limits.ts';
import { sharedTransport } from './shared-transport.ts';
import type { ExpectedSocket, TcpListener } from './tcp-listener.ts';
import { TcpTransport } from './tcp-transport.ts';

export type Target = Pick<HandOffTarget, 'instance' | 'incarnation' | 'address'>;

export interface SourcePairingOptions {
  readonly target: Target;
  readonly pair: Pair;
  /** null: the target is on this host and maps our pools. */
  readonly listener: TcpListener | null;
  /** Host name under which the target reaches the listener. */
  readonly advertisedHost: string;
  readonly security: ContractSecurity;
  readonly view: (group: number, page: number) => Uint8Array;
  readonly onMessage: (message: TargetMessage['kind']) => void;
  readonly onOpened: () => void;
  /** Once; nothing follows. */
  readonly onOver: (reason: string) => void;
}

export class SourcePairing {
  readonly target: Target;
  readonly leases = new Leases();
  readonly #options: SourcePairingOptions;
  readonly #client: ClientOf<typeof Engine>;
  readonly #stream: DuplexHandle<SourceMessage>;
  readonly #timer: NodeJS.Timeout;
  #transport: KvTransport | null = null;
  #heardMs = performance.now();
  #leaseEndNs = 0n;
  #process: { readonly pid: number; readonly start: string | null } | null = null;
  #expected: ExpectedSocket | null = null;
  #isOver = false;

  constructor(options: SourcePairingOptions) {
    const { target, pair, security } = options;
    this.#options = options;
    this.target = target;
    this.#client = new ContractClient(Engine, target.address, security);
    this.#stream = this.#client.duplex(
      'handOff',
      (message) => this.#hear(message.kind),
      (error) => this.end(error ? error.message : 'the target ended the pairing'),
    );
    void this.#introduce(pair);
    this.#timer = setInterval(() => this.#beat(), beatMs).unref();
  }

  /** null: not paired yet. */
  get transport(): KvTransport | null {
    return this.#transport;
  }

  /** Whether what was lent, and only read, is ours again. */
  get hasLeaseEnded(): boolean {
    return hostNowNs() > this.#leaseEndNs;
  }

  /** Whether the target's process has ended for certain; always where it is on another host, and has nothing of ours. */
  get isTargetGone(): boolean {
    return this.#process === null || startOf(this.#process.pid) !== this.#process.start;
  }

  send(kind: SourceMessage['kind']): void {
    if (!this.#isOver) this.#stream.write(create(SourceMessageSchema, { kind }));
  }

  end(reason: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearInterval(this.#timer);
    this.#expected?.forget();
    this.#stream.cancel();
    this.#transport?.close();
    this.#client.close();
    this.#options.onOver(reason);
  }

  #hear(kind: TargetMessage['kind']): void {
    if (this.#isOver) return;
    this.#heardMs = performance.now();
    if (kind.case === 'paired') void this.#open(kind.value);
    else if (kind.case !== 'beat') this.#options.onMessage(kind);
  }

  async #introduce(pair: Pair): Promise<void> {
    const { listener, advertisedHost } = this.#options;
    try {
      this.#expected = listener ? await listener.expect() : null;
    } catch (error) {
      this.end(error instanceof Error ? error.message : String(error));
      return;
    }
    if (this.#isOver) this.#expected?.forget();
    const { port = 0, ticket = new Uint8Array(0) } = this.#expected ?? {};
    this.send({ case: 'pair', value: { ...pair, address: `${advertisedHost}:${port}`, ticket } });
  }

  async #open({ refused, message, isMapped, pid }: Paired): Promise<void> {
    if (refused !== '') {
      this.end(message);
      return;
    }
    if (this.#transport) return;
    if (isMapped) {
      this.#transport = sharedTransport;
      this.#process = { pid, start: startOf(pid) };
      this.#expected?.forget();
    } else {
      const socket = await this.#expected?.socket;
      if (!socket || this.#isOver) {
        socket?.destroy();
        this.end('the target has no way to our pages');
        return;
      }
      const { view } = this.#options;
      this.#transport = new TcpTransport({ socket, view, onBroken: (reason) => this.end(reason) });
    }
    this.#beat();
    this.#options.onOpened();
  }

  #beat(): void {
    const silentMs = performance.now() - this.#heardMs;
    if (silentMs > (this.#transport ? leaseMs : answerMs)) {
      this.end(`nothing was heard of ${this.target.instance} for ${Math.round(silentMs)} ms`);
      return;
    }
    if (!this.#transport) return;
    if (silentMs < freshMs) this.#leaseEndNs = hostNowNs() + BigInt(leaseMs) * 1_000_000n;
    this.send({ case: 'beat', value: create(PairingBeatSchema, { leaseEndNs: this.#leaseEndNs }) });
  }
}
