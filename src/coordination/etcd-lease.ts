// Owns one lease in etcd: granted, refreshed, and known to be lost by this process's own clock.
import type { EtcdCalls } from './etcd-calls.ts';

export class EtcdLease {
  readonly id: string;
  readonly #calls: EtcdCalls;
  readonly #ttlMs: number;
  readonly #onLost: () => void;
  #isOver = false;
  #expiry: NodeJS.Timeout;
  #next: NodeJS.Timeout;

  private constructor(calls: EtcdCalls, id: string, ttlMs: number, sentMs: number, onLost: () => void) {
    this.id = id;
    this.#calls = calls;
    this.#ttlMs = ttlMs;
    this.#onLost = onLost;
    this.#expiry = this.#expiresAfter(sentMs);
    this.#next = setTimeout(() => void this.#refresh(), ttlMs / 3);
  }

  /** `onLost` is called once when etcd says that it is gone, or has not confirmed it for `ttlMs`. */
  static async grant(calls: EtcdCalls, ttlMs: number, onLost: () => void): Promise<EtcdLease> {
    const sentMs = performance.now();
    return new EtcdLease(calls, await calls.grant(ttlMs), ttlMs, sentMs, onLost);
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Stops refreshing; tells etcd where it can be told. */
  async revoke(): Promise<void> {
    this.#stop();
    try {
      await this.#calls.revoke(this.id);
    } catch {
      // It is gone already, or will be when its time is over.
    }
  }

  async #refresh(): Promise<void> {
    const sentMs = performance.now();
    try {
      const isAlive = await this.#calls.refresh(this.id, this.#ttlMs / 3);
      if (this.#isOver) return;
      if (!isAlive) {
        this.#lose();
        return;
      }
      clearTimeout(this.#expiry);
      this.#expiry = this.#expiresAfter(sentMs);
    } catch {
      // Unreachable, which is told elsewhere: its time may yet be enough.
      if (this.#isOver) return;
    }
    this.#next = setTimeout(() => void this.#refresh(), this.#ttlMs / 3);
  }

  #expiresAfter(sentMs: number): NodeJS.Timeout {
    return setTimeout(() => this.#lose(), Math.max(0, sentMs + this.#ttlMs - performance.now()));
  }

  #lose(): void {
    if (this.#isOver) return;
    this.#stop();
    this.#onLost();
  }

  #stop(): void {
    this.#isOver = true;
    clearTimeout(this.#expiry);
    clearTimeout(this.#next);
  }
}
