// Owns the calls to etcd that the coordinator consists of: names spaced, bounded in time, failures told apart.
import { noop } from 'cockatiel';
import { Etcd3, type IEvent, type IKeyValue } from 'etcd3';
import { channelOptions } from '../contract/protocol.ts';
import type { Condition, KeyValue, WatchEvent } from './coordinator.ts';
import type { StoreHealth } from './store-health.ts';

export interface EtcdOptions {
  /** `host:port` each. */
  readonly hosts: readonly string[];
  /** Before every key; '' or starting with a slash. */
  readonly namespace: string;
  readonly user?: { readonly name: string; readonly password: string } | undefined;
  /** PEM: the authority that signed etcd's certificate, and where etcd asks for it a certificate of our own. */
  readonly tls?:
    | { readonly ca: Buffer; readonly cert?: Buffer | undefined; readonly key?: Buffer | undefined }
    | undefined;
}

const CALL_DEADLINE_MS = 5_000;

export class EtcdCalls {
  readonly #client: Etcd3;
  readonly #namespace: string;
  readonly #health: StoreHealth;

  constructor({ hosts, namespace, user, tls }: EtcdOptions, health: StoreHealth) {
    this.#namespace = namespace;
    this.#health = health;
    this.#client = new Etcd3({
      hosts: hosts.map((host) => `${tls ? 'https' : 'http'}://${host}`),
      ...(user ? { auth: { username: user.name, password: user.password } } : {}),
      ...(tls
        ? {
            credentials: {
              rootCertificate: tls.ca,
              ...(tls.cert && tls.key ? { certChain: tls.cert, privateKey: tls.key } : {}),
            },
          }
        : {}),
      grpcOptions: channelOptions,
      // Retries are ours: the client's circuit breaker would keep refusing for seconds after etcd is back.
      faultHandling: { host: () => noop, global: noop },
      defaultCallOptions: ({ isStream }) => (isStream ? {} : { deadline: Date.now() + CALL_DEADLINE_MS }),
    });
  }

  close(): void {
    this.#client.close();
  }

  async get(key: string): Promise<KeyValue | null> {
    const { kvs } = await this.#ask(() => this.#client.kv.range({ key: this.#key(key) }));
    return kvs[0] ? this.#keyValue(kvs[0]) : null;
  }

  async list(prefix: string): Promise<{ readonly revision: number; readonly entries: readonly KeyValue[] }> {
    const range = this.#range(prefix);
    const { header, kvs } = await this.#ask(() => this.#client.kv.range(range));
    return { revision: Number(header.revision), entries: kvs.map((kv) => this.#keyValue(kv)) };
  }

  /** null: a condition did not hold. `lease` '0': none. */
  async write(
    key: string,
    value: Uint8Array | null,
    conditions: readonly Condition[],
    lease = '0',
  ): Promise<number | null> {
    const name = this.#key(key);
    const operation =
      value === null
        ? { request_delete_range: { key: name } }
        : { request_put: { key: name, value: Buffer.from(value), lease } };
    const compare = conditions.map((condition) => ({
      key: this.#key(condition.key),
      target: 'Mod' as const,
      result: 'Equal' as const,
      mod_revision: condition.revision,
    }));
    const reply = await this.#ask(() => this.#client.kv.txn({ compare, success: [operation], failure: [] }));
    return reply.succeeded ? Number(reply.header.revision) : null;
  }

  /** etcd counts in seconds, and takes no less than its own election time. */
  async grant(ttlMs: number): Promise<string> {
    const { ID } = await this.#ask(() => this.#client.leaseClient.leaseGrant({ TTL: Math.ceil(ttlMs / 1_000) }));
    return ID;
  }

  async revoke(lease: string): Promise<void> {
    await this.#ask(() => this.#client.leaseClient.leaseRevoke({ ID: lease }));
  }

  /** False: the lease is gone. */
  async refresh(lease: string, timeoutMs: number): Promise<boolean> {
    try {
      return await this.#ask(() => this.#refreshOnce(lease, timeoutMs));
    } catch (error) {
      // A stream does not renew a login that etcd has forgotten (it does so when it restarts); a plain call does.
      const { TTL } = await this.#ask(() => this.#client.leaseClient.leaseTimeToLive({ ID: lease }));
      if (Number(TTL) <= 0) return false;
      throw error;
    }
  }

  /** Tells of changes from `revision` on. `onEnd` is called once when it is over: the break, or that it was compacted. */
  async watch(
    prefix: string,
    revision: number,
    onEvent: (event: WatchEvent) => void,
    onEnd: (error: Error) => void,
  ): Promise<() => void> {
    const { key, range_end } = this.#range(prefix);
    const stream = await this.#client.watchClient.watch();
    let hasEnded = false;
    const end = (error: Error) => {
      if (hasEnded) return;
      hasEnded = true;
      stream.cancel();
      onEnd(error);
    };
    stream.on('error', end);
    stream.on('end', () => end(new Error('the watch ended')));
    stream.on('data', (reply) => {
      if (hasEnded) return;
      if (reply.canceled) end(new Error(reply.cancel_reason || 'the watch was cancelled'));
      else for (const event of reply.events) onEvent(this.#event(event));
    });
    stream.write({ create_request: { key, range_end, start_revision: revision } });
    return () => {
      hasEnded = true;
      stream.cancel();
    };
  }

  async #refreshOnce(lease: string, timeoutMs: number): Promise<boolean> {
    const stream = await this.#client.leaseClient.leaseKeepAlive();
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => reject(new Error('a lease could not be refreshed in time')), timeoutMs);
    stream.on('error', reject);
    stream.on('end', () => reject(new Error('the connection ended')));
    stream.on('data', ({ TTL }) => resolve(Number(TTL) > 0));
    stream.write({ ID: lease });
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      stream.end();
    }
  }

  #ask<T>(call: () => Promise<T>): Promise<T> {
    return this.#health.judge(call, isOfLease);
  }

  #key(key: string): Buffer {
    return Buffer.from(this.#namespace + key);
  }

  /** Every key that begins with the prefix: up to the next string after all of them. */
  #range(prefix: string): { readonly key: Buffer; readonly range_end: Buffer } {
    const key = this.#key(prefix);
    const end = Buffer.from(key);
    // Keys are text, whose bytes are below 0xff.
    const last = end.length - 1;
    end[last] = (end[last] ?? 0) + 1;
    return { key, range_end: end };
  }

  #keyValue({ key, value, mod_revision }: IKeyValue): KeyValue {
    return { key: key.toString().slice(this.#namespace.length), value, revision: Number(mod_revision) };
  }

  #event({ type, kv }: IEvent): WatchEvent {
    const entry = this.#keyValue(kv);
    // proto-loader gives the enum's name, the types its number.
    const isDelete = String(type) === 'Delete' || String(type) === 'DELETE' || String(type) === '1';
    return isDelete ? { kind: 'delete', key: entry.key, revision: entry.revision } : { kind: 'put', ...entry };
  }
}

/** What is said of a lease is an answer. */
function isOfLease(error: unknown): boolean {
  return error instanceof Error && error.name === 'EtcdLeaseInvalidError';
}
