// Owns the engine's side of the embedded coordinator: holds its key over the contract, again after every break.
import { create } from '@bufbuild/protobuf';
import { Coordination, HoldRequestSchema } from '../contract/generated/xllm_pb.js';
import { type ClientOf, ContractClient, type DuplexHandle } from '../contract/grpc.ts';
import type { Address } from '../contract/protocol.ts';
import type { HeldKey, Registrar } from './coordinator.ts';

const RETRY_MS = 500;

export class RemoteCoordinator implements Registrar {
  readonly #client: ClientOf<typeof Coordination>;
  readonly #stops = new Set<() => void>();

  constructor(address: Address) {
    this.#client = new ContractClient(Coordination, address);
  }

  hold(key: string, value: Uint8Array, ttlMs: number): HeldKey {
    let current = value;
    let stream: DuplexHandle<ReturnType<typeof request>> | null = null;
    let retry: NodeJS.Timeout | null = null;
    const request = () => create(HoldRequestSchema, { key, value: current, ttlMs });
    const connect = () => {
      retry = null;
      stream = this.#client.duplex(
        'hold',
        () => {},
        () => {
          stream = null;
          if (!released) retry = setTimeout(connect, RETRY_MS);
        },
      );
      stream.write(request());
    };
    let released = false;
    connect();
    const refresh = setInterval(() => stream?.write(request()), ttlMs / 3);
    const release = () => {
      released = true;
      clearInterval(refresh);
      if (retry) clearTimeout(retry);
      stream?.cancel();
      this.#stops.delete(release);
    };
    this.#stops.add(release);
    return {
      update: (next) => {
        current = next;
        stream?.write(request());
      },
      release,
    };
  }

  close(): void {
    for (const stop of this.#stops) stop();
    this.#client.close();
  }
}
