// Owns the check of a request's API key, in a time that says nothing about the keys.
import { hash, timingSafeEqual } from 'node:crypto';

export class ApiKeys {
  /** SHA-256 of each key: equal lengths, as the comparison needs. */
  readonly #digests: readonly Buffer[];

  constructor(keys: readonly string[]) {
    this.#digests = keys.map(digestOf);
  }

  get required(): boolean {
    return this.#digests.length > 0;
  }

  /** Whether an `Authorization` header carries one of the keys. Takes the same time whichever it is. */
  accepts(authorization: string | undefined): boolean {
    const match = /^Bearer +(\S+)\s*$/i.exec(authorization ?? '');
    const digest = digestOf(match?.[1] ?? '');
    let found = 0;
    for (const known of this.#digests) found |= Number(timingSafeEqual(known, digest));
    return match !== null && found === 1;
  }
}

function digestOf(key: string): Buffer {
  return hash('sha256', key, 'buffer');
}
