// The description of a cache file comes back as written, and any other bytes give none.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decodeHeader, encodeHeader, layOutCacheFile } from './cache-header.ts';

const secret = Buffer.alloc(16, 7);
const description = {
  ...layOutCacheFile({
    key: 'k'.repeat(40),
    sources: [{ path: '/models/ä.gguf', numBytes: 2 ** 40 }],
    about: 'Q4_1 for avx2',
    numBytes: 5 << 20,
    extents: [0, 1 << 20, 1 << 20, 4 << 20],
  }),
  tags: Buffer.alloc(32, 1).toString('base64'),
};
const encoded = encodeHeader(description, secret);

const decode = (bytes: Buffer, key = secret) =>
  decodeHeader((target, position) => bytes.copy(target, 0, position), key);

test('it comes back', () => {
  expect(decode(encoded)).toEqual(description);
  expect(description).toMatchObject({ dataOffset: 2 << 20, fileBytes: 8 << 20 });
});

test('many pieces push the weights back', () => {
  const extents = Array.from({ length: 200_000 }, (_, i) => i);
  const { dataOffset, fileBytes } = layOutCacheFile({ key: '', sources: [], about: '', numBytes: 1, extents });
  expect(dataOffset % (2 << 20)).toBe(0);
  expect(dataOffset).toBeGreaterThan(2 << 20);
  expect(fileBytes).toBe(dataOffset + (2 << 20));
});

test('no changed, cut or foreign header is read', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: encoded.length * 8 - 1 }), (bit) => {
      const changed = Buffer.from(encoded);
      changed[bit >> 3]! ^= 1 << (bit & 7);
      // Bytes 12 to 16 are not used.
      if (bit >> 3 >= 12 && bit >> 3 < 16) return;
      expect(decode(changed)).toBeNull();
    }),
  );
  fc.assert(
    fc.property(fc.integer({ min: 0, max: encoded.length - 1 }), (length) => {
      expect(decode(encoded.subarray(0, length))).toBeNull();
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      expect(decode(Buffer.from(bytes))).toBeNull();
    }),
  );
  expect(decode(encoded, Buffer.alloc(16, 8))).toBeNull();
});
