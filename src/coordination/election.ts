// Owns how one of many candidates comes to lead: a key that only the leader holds, and a race when it is gone.
import type { Coordinator, Election, Leader } from './coordinator.ts';

/** A key that was created under a lease of its own. */
export interface LeasedKey {
  readonly revision: number;
  release(): Promise<void>;
}

export interface ElectionStore extends Pick<Coordinator, 'watch'> {
  /**
   * Creates the key under a lease; null where it exists. `onLost` is called once when the lease is gone or could not be
   * refreshed for `ttlMs` by the holder's own clock. Rejects with CoordinatorUnavailable.
   */
  createLeased(key: string, value: Uint8Array, ttlMs: number, onLost: () => void): Promise<LeasedKey | null>;
}

export interface ElectionOptions {
  readonly store: ElectionStore;
  readonly key: string;
  readonly candidate: string;
  readonly ttlMs: number;
  readonly onChange: (leader: Leader | null) => void;
}

const RETRY_MS = 500;

export class Campaign implements Election {
  readonly #options: ElectionOptions;
  readonly #stopWatching: () => void;
  /** The leader's key as last seen. */
  #seen: Leader | null = null;
  #own: LeasedKey | null = null;
  /** Own terms that are over, though the store may still show them. */
  #lostTerm = 0;
  #told: Leader | null = null;
  #isRacing = false;
  #hasResigned = false;
  #retry: NodeJS.Timeout | null = null;

  constructor(options: ElectionOptions) {
    this.#options = options;
    const { store, key } = options;
    this.#stopWatching = store.watch(key, (event) => {
      if (event.kind === 'snapshot') {
        const entry = event.entries.find((candidate) => candidate.key === key);
        this.#seen = entry ? leaderOf(entry.value, entry.revision) : null;
      } else if (event.key === key) {
        this.#seen = event.kind === 'put' ? leaderOf(event.value, event.revision) : null;
      }
      this.#tell();
      if (!this.#seen) void this.#race();
    });
  }

  get leader(): Leader | null {
    if (this.#own) return { candidate: this.#options.candidate, term: this.#own.revision };
    return this.#seen && this.#seen.term !== this.#lostTerm ? this.#seen : null;
  }

  get ownTerm(): number | null {
    return this.#own?.revision ?? null;
  }

  async resign(): Promise<void> {
    if (this.#hasResigned) return;
    this.#hasResigned = true;
    this.#stopWatching();
    if (this.#retry) clearTimeout(this.#retry);
    const own = this.#own;
    this.#own = null;
    await own?.release();
  }

  async #race(): Promise<void> {
    if (this.#isRacing || this.#hasResigned || this.#own) return;
    this.#isRacing = true;
    const { store, key, candidate, ttlMs } = this.#options;
    let isLost = false;
    try {
      const won = await store.createLeased(key, new TextEncoder().encode(candidate), ttlMs, () => {
        isLost = true;
        this.#lose();
      });
      if (won && this.#hasResigned) await won.release();
      else if (won && !isLost) this.#own = won;
    } catch {
      // The store is away, which its owner is told elsewhere: again later.
      this.#retry = setTimeout(() => void this.#race(), RETRY_MS);
    } finally {
      this.#isRacing = false;
    }
    this.#tell();
  }

  #lose(): void {
    if (this.#own) this.#lostTerm = this.#own.revision;
    this.#own = null;
    this.#tell();
    if (!this.#seen) this.#retry = setTimeout(() => void this.#race(), RETRY_MS);
  }

  #tell(): void {
    const { leader } = this;
    if (this.#hasResigned || (leader?.term === this.#told?.term && leader?.candidate === this.#told?.candidate)) return;
    this.#told = leader;
    this.#options.onChange(leader);
  }
}

function leaderOf(value: Uint8Array, term: number): Leader {
  return { candidate: new TextDecoder().decode(value), term };
}
