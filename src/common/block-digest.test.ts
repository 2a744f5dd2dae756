// Digests: pinned bytes (engine and service of different builds must agree), chaining, transport.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockHasher, bytesOfDigests, type DigestSeed, digestsOfBytes, rootDigest } from './block-digest.ts';

const seed: DigestSeed = { model: 'm', numericsId: 'n', blockTokens: 16, adapter: '', salt: '' };

function digestsOf(tokens: readonly number[], from: DigestSeed = seed) {
  const digests: ReturnType<typeof rootDigest>[] = [];
  new BlockHasher(from.blockTokens).extend(digests, rootDigest(from), Int32Array.from(tokens), tokens.length);
  return digests;
}

test('digests are these bytes', () => {
  const tokens = Array.from({ length: 33 }, (_, i) => 1000 * i);
  expect(rootDigest(seed)).toMatchInlineSnapshot(`"7ef595a8a87b89cc8cd0fedf38b11feb"`);
  expect(digestsOf(tokens)).toMatchInlineSnapshot(`
    [
      "694de220887c17493410688ddcda5e0d",
      "e63053fe92f68b6a15f18f571e88db1d",
    ]
  `);
});

test('a digest names its block and everything before it, and what else must match', () => {
  const tokens = Array.from({ length: 48 }, (_, i) => i);
  const base = digestsOf(tokens);
  expect(digestsOf(tokens.with(20, -7))).toEqual([base[0], expect.not.stringMatching(base[1]!), expect.anything()]);
  expect(digestsOf(tokens.with(20, -7))[2]).not.toBe(base[2]);
  for (const other of [{ model: 'x' }, { numericsId: 'x' }, { adapter: 'x' }, { salt: 'x' }]) {
    expect(digestsOf(tokens, { ...seed, ...other })[0]).not.toBe(base[0]);
  }
  expect(rootDigest({ ...seed, adapter: 'ab', salt: 'c' })).not.toBe(rootDigest({ ...seed, adapter: 'a', salt: 'bc' }));
});

test('extending block by block equals digesting at once', () => {
  fc.assert(
    fc.property(fc.array(fc.integer(), { maxLength: 100 }), fc.integer({ min: 0, max: 100 }), (tokens, cut) => {
      const ids = Int32Array.from(tokens);
      const hasher = new BlockHasher(16);
      const digests: ReturnType<typeof rootDigest>[] = [];
      hasher.extend(digests, rootDigest(seed), ids, Math.min(cut, tokens.length));
      hasher.extend(digests, rootDigest(seed), ids, tokens.length);
      expect(digests).toEqual(digestsOf(tokens));
    }),
  );
});

test('digests travel as 16 bytes each', () => {
  const digests = digestsOf(Array.from({ length: 64 }, (_, i) => i));
  expect(bytesOfDigests(digests)).toHaveLength(64);
  expect(digestsOfBytes(bytesOfDigests(digests))).toEqual(digests);
  expect(() => digestsOfBytes(new Uint8Array(15))).toThrow(RangeError);
});
