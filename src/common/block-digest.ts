// Owns the digests that name KV blocks: engine and service compute them from token ids and must agree byte for byte.
import { hash } from 'node:crypto';
import type { Brand } from './ids.ts';

/** Names one full block and everything before it: 128 bits as 32 hex digits (SHA-256, truncated). */
export type BlockDigest = Brand<string, 'BlockDigest'>;

const digestBytes = 16;

/** What must be equal, besides the tokens, for two blocks to hold the same keys and values. */
export interface DigestSeed {
  readonly model: string;
  readonly numericsId: string;
  readonly blockTokens: number;
  /** Adapter (LoRA) name; '': none. */
  readonly adapter: string;
  /** `cache_salt` of the tenant; '': shared. */
  readonly salt: string;
}

/** Parent of a sequence's first block. JSON of a list keeps neighbouring fields apart. */
export function rootDigest(seed: DigestSeed): BlockDigest {
  const { model, numericsId, blockTokens, adapter, salt } = seed;
  return truncated(JSON.stringify(['xllm-block-1', model, numericsId, blockTokens, adapter, salt]));
}

/** Computes chained digests: SHA-256(parent digest, 16 bytes ‖ the block's token ids, i32 little-endian). */
export class BlockHasher {
  readonly blockTokens: number;
  readonly #bytes: Buffer;
  /** The token part of `#bytes`. Every platform that Node 24 runs on is little-endian. */
  readonly #tokens: Int32Array;

  constructor(blockTokens: number) {
    this.blockTokens = blockTokens;
    const memory = new ArrayBuffer(digestBytes + 4 * blockTokens);
    this.#bytes = Buffer.from(memory);
    this.#tokens = new Int32Array(memory, digestBytes);
  }

  /** Digest of the block whose tokens start at `start`. Reads exactly one block. */
  next(parent: BlockDigest, tokens: Int32Array, start: number): BlockDigest {
    this.#bytes.write(parent, 0, digestBytes, 'hex');
    this.#tokens.set(tokens.subarray(start, start + this.blockTokens));
    return truncated(this.#bytes);
  }

  /** Appends to `digests` those of the full blocks of `tokens[0, numTokens)` that it does not yet cover. */
  extend(digests: BlockDigest[], root: BlockDigest, tokens: Int32Array, numTokens: number): void {
    const numBlocks = Math.floor(numTokens / this.blockTokens);
    for (let block = digests.length; block < numBlocks; block++) {
      digests.push(this.next(digests[block - 1] ?? root, tokens, block * this.blockTokens));
    }
  }
}

/** Concatenated 16-byte digests, as the contract carries them. */
export function bytesOfDigests(digests: readonly BlockDigest[]): Uint8Array {
  const bytes = Buffer.alloc(digests.length * digestBytes);
  digests.forEach((digest, index) => bytes.write(digest, index * digestBytes, digestBytes, 'hex'));
  return bytes;
}

/** Inverse of `bytesOfDigests`. Throws RangeError when the length is not a multiple of 16. */
export function digestsOfBytes(bytes: Uint8Array): BlockDigest[] {
  if (bytes.length % digestBytes !== 0) throw new RangeError(`${bytes.length} bytes are not whole block digests`);
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
  const numDigests = bytes.length / digestBytes;
  return Array.from(
    { length: numDigests },
    (_, i) => hex.slice(2 * digestBytes * i, 2 * digestBytes * (i + 1)) as BlockDigest,
  );
}

function truncated(data: string | Buffer): BlockDigest {
  return hash('sha256', data, 'hex').slice(0, 2 * digestBytes) as BlockDigest;
}
