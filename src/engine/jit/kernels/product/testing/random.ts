// Owns seeded inputs of product tests.
import { invariant } from '../../../../../common/errors.ts';
import { BLOCK } from '../abi.ts';
import { type IntegerFormat, type PackedFormat, type PackedLayout, packedLayout } from '../layout.ts';
import { sourceBytes } from '../pack.ts';
import { sourceFormats } from '../source.ts';

/** Numbers of [0, 1), the same for each seed. */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

export function layoutOf(format: PackedFormat): PackedLayout {
  const layout = packedLayout(format);
  invariant(layout, `${format} can be packed`);
  return layout;
}

/** Where blocks of files hold F16 numbers, which random bytes would make infinite. */
const halfFields: Readonly<Record<IntegerFormat, readonly number[]>> = {
  Q4_0: [0],
  Q4_1: [0, 2],
  Q5_0: [0],
  Q5_1: [0, 2],
  Q8_0: [0],
  IQ4_NL: [0],
  Q2_K: [80, 82],
  Q3_K: [108],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
};

/** Rows in the file's format. Any bytes are quants; some blocks are all extremes. */
export function randomRows(format: PackedFormat, N: number, K: number, random: () => number): Uint8Array {
  const bytes = new Uint8Array(N * sourceBytes(layoutOf(format), K));
  const view = new DataView(bytes.buffer);
  if (format === 'F32' || format === 'F16' || format === 'BF16') {
    for (let i = 0; i < N * K; i++) {
      const value = random() - 0.5;
      if (format === 'F32') view.setFloat32(4 * i, value, true);
      else if (format === 'F16') view.setFloat16(2 * i, value, true);
      else view.setUint16(2 * i, new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16, true);
    }
    return bytes;
  }
  const { blockBytes } = sourceFormats[format];
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const extreme = random() < 0.1 ? (random() < 0.5 ? 0x80 : random() < 0.5 ? 0 : 0xff) : null;
    for (let i = 0; i < blockBytes; i++) bytes[at + i] = extreme ?? Math.floor(random() * 256);
    for (const field of halfFields[format]) view.setFloat16(at + field, (random() - 0.5) * 0.1, true);
  }
  return bytes;
}

/** Blocks of zeros, of the extremes, and with a single large value among the rest. */
export function randomActivations(M: number, K: number, random: () => number): Float32Array {
  const x = Float32Array.from({ length: M * K }, () => (random() + random() + random() - 1.5) * 8);
  x.fill(0, 0, BLOCK);
  if (x.length >= 3 * BLOCK) {
    for (let i = BLOCK; i < 2 * BLOCK; i++) x[i] = i % 7 === 0 ? -3 : 3;
    x[2 * BLOCK + 5] = 1e6;
  }
  return x;
}
