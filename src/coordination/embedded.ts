// Owns the embedded coordinator: a map with leases inside the one service process, and its face on the contract.
import { create } from '@bufbuild/protobuf';
import { Coordination, HoldReplySchema } from '../contract/generated/xllm_pb.js';
import type { ContractServer } from '../contract/grpc.ts';
import type { Coordinator, HeldKey, WatchEvent } from './coordinator.ts';

interface Entry {
  value: Uint8Array;
  holder: symbol;
  expiry: NodeJS.Timeout | null;
}

interface Watcher {
  readonly prefix: string;
  readonly onEvent: (event: WatchEvent) => void;
}

export class EmbeddedCoordinator implements Coordinator {
  readonly #entries = new Map<string, Entry>();
  readonly #watchers = new Set<Watcher>();
  #revision = 0;

  hold(key: string, value: Uint8Array): HeldKey {
    const holder = Symbol(key);
    this.#put(key, value, holder, null);
    return {
      update: (next) => this.#put(key, next, holder, null),
      release: () => this.#drop(key, holder),
    };
  }

  watch(prefix: string, onEvent: (event: WatchEvent) => void): () => void {
    for (const [key, entry] of this.#entries) {
      if (key.startsWith(prefix)) onEvent({ revision: this.#revision, key, value: entry.value });
    }
    const watcher = { prefix, onEvent };
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  close(): void {
    for (const entry of this.#entries.values()) if (entry.expiry) clearTimeout(entry.expiry);
    this.#entries.clear();
    this.#watchers.clear();
  }

  /** Lets other processes hold keys. A key goes when its stream ends or is silent for its ttl. */
  serve(server: ContractServer): void {
    server.add(Coordination, {
      hold: (requests, stream) => {
        const holder = Symbol('remote');
        const held = new Set<string>();
        requests.onMessage((request) => {
          held.add(request.key);
          this.#put(request.key, request.value, holder, request.ttlMs);
          stream.write(create(HoldReplySchema, { revision: BigInt(this.#revision) }));
        });
        stream.onClose(() => {
          for (const key of held) this.#drop(key, holder);
        });
      },
    });
  }

  #put(key: string, value: Uint8Array, holder: symbol, ttlMs: number | null): void {
    const before = this.#entries.get(key);
    if (before?.expiry) clearTimeout(before.expiry);
    const expiry = ttlMs === null ? null : setTimeout(() => this.#drop(key, holder), ttlMs).unref();
    this.#entries.set(key, { value, holder, expiry });
    const isRefresh = before !== undefined && Buffer.compare(before.value, value) === 0;
    if (!isRefresh) this.#publish(key, value);
  }

  /** Only the current holder may drop a key: a stale stream's end must not remove its successor's. */
  #drop(key: string, holder: symbol): void {
    const entry = this.#entries.get(key);
    if (entry?.holder !== holder) return;
    if (entry.expiry) clearTimeout(entry.expiry);
    this.#entries.delete(key);
    this.#publish(key, null);
  }

  #publish(key: string, value: Uint8Array | null): void {
    this.#revision++;
    for (const watcher of this.#watchers) {
      if (key.startsWith(watcher.prefix)) watcher.onEvent({ revision: this.#revision, key, value });
    }
  }
}
