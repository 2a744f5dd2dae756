// Owns the coordinator seam: who is alive and where. Implementations: embedded (in the service process), etcd later.

export interface WatchEvent {
  readonly revision: number;
  readonly key: string;
  /** null: the key is gone. */
  readonly value: Uint8Array | null;
}

/** A key that exists as long as its holder lives and refreshes it. */
export interface HeldKey {
  update(value: Uint8Array): void;
  release(): void;
}

/** What an engine needs of a coordinator. */
export interface Registrar {
  /**
   * Puts a key under a lease: it vanishes `ttlMs` after its holder was last heard of.
   * Reconnects and puts it again for as long as it is held.
   */
  hold(key: string, value: Uint8Array, ttlMs: number): HeldKey;
  close(): void;
}

/** What a service needs of it on top. */
export interface Coordinator extends Registrar {
  /** Calls back with every key under the prefix now, then with each change, until the returned function is called. */
  watch(prefix: string, onEvent: (event: WatchEvent) => void): () => void;
}

/** Where instances register: `/instances/NAME`, a JSON `InstanceRecord`. */
export const INSTANCE_PREFIX = '/instances/';

/** What an engine says of itself; versioned by its fields (readers ignore unknown ones). */
export interface InstanceRecord {
  readonly name: string;
  /** Changes with every life of the process. */
  readonly incarnation: string;
  readonly address: string;
  readonly model: string;
  readonly build: string;
  readonly roles: readonly string[];
}

export function encodeRecord(record: InstanceRecord): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(record));
}

/** Null when the bytes are not a record: a foreign or malformed key changes nothing. */
export function decodeRecord(bytes: Uint8Array): InstanceRecord | null {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
  if (typeof value !== 'object' || value === null) return null;
  const { name, incarnation, address, model, build, roles } = value as Record<string, unknown>;
  if (typeof name !== 'string' || typeof incarnation !== 'string' || typeof address !== 'string') return null;
  return {
    name,
    incarnation,
    address,
    model: typeof model === 'string' ? model : '',
    build: typeof build === 'string' ? build : '',
    roles: Array.isArray(roles) ? roles.filter((role) => typeof role === 'string') : [],
  };
}
