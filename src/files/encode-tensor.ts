// Owns turning float32 values into the formats that this package writes: floats and ggml's simple blocks of 32.
import { bytesOf } from './dtype.ts';

export type WritableDType = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q4_0' | 'Q4_1';

const blockElements = 32;

/**
 * Encodes `values` (a multiple of 32 for block formats) into `target`, which has exactly the bytes they take.
 * Bit for bit what ggml's reference quantisers (quantize_row_*_ref in ggml-quants.c) give.
 */
export function encodeTensor(dtype: WritableDType, values: Float32Array, target: Uint8Array): void {
  encoders[dtype](values, target);
}

/** The bytes of `values` in `dtype`, in a buffer of their own. */
export function encodedTensor(dtype: WritableDType, values: Float32Array): Uint8Array {
  const target = new Uint8Array(bytesOf(dtype, values.length));
  encodeTensor(dtype, values, target);
  return target;
}

const encoders: Readonly<Record<WritableDType, (values: Float32Array, target: Uint8Array) => void>> = {
  F32: (values, target) => target.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength)),
  F16: (values, target) => {
    const halves = new Float16Array(values);
    target.set(new Uint8Array(halves.buffer));
  },
  BF16: encodeBf16,
  Q8_0: encodeQ80,
  Q4_0: encodeQ40,
  Q4_1: encodeQ41,
};

/** To nearest, ties to even; not-a-number stays so. */
function encodeBf16(values: Float32Array, target: Uint8Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < values.length; i++) {
    const word = bits[i]!;
    const isNan = (word & 0x7fffffff) > 0x7f800000;
    const high = isNan ? (word >>> 16) | 64 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
    target[2 * i] = high & 0xff;
    target[2 * i + 1] = (high >>> 8) & 0xff;
  }
}

const half = new Float16Array(1);
const halfBytes = new Uint8Array(half.buffer);

function putHalf(value: number, target: Uint8Array, at: number): void {
  half[0] = value;
  target[at] = halfBytes[0]!;
  target[at + 1] = halfBytes[1]!;
}

/** Block: scale F16, then 32 signed bytes. */
function encodeQ80(values: Float32Array, target: Uint8Array): void {
  let at = 0;
  for (let start = 0; start < values.length; start += blockElements) {
    let largest = 0;
    for (let i = start; i < start + blockElements; i++) largest = Math.max(largest, Math.abs(values[i]!));
    const scale = Math.fround(largest / 127);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    putHalf(scale, target, at);
    at += 2;
    for (let i = start; i < start + blockElements; i++) {
      const scaled = Math.fround(values[i]! * inverse);
      // Halves away from zero, as C's roundf.
      target[at++] = scaled < 0 ? -Math.floor(0.5 - scaled) : Math.floor(scaled + 0.5);
    }
  }
}

/** Block: scale F16, then 16 bytes: elements 0-15 in the low nibbles, 16-31 in the high ones, 8 meaning zero. */
function encodeQ40(values: Float32Array, target: Uint8Array): void {
  let at = 0;
  for (let start = 0; start < values.length; start += blockElements) {
    let extreme = 0;
    for (let i = start; i < start + blockElements; i++) {
      if (Math.abs(values[i]!) > Math.abs(extreme)) extreme = values[i]!;
    }
    const scale = Math.fround(extreme / -8);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    putHalf(scale, target, at);
    at += 2;
    for (let i = start; i < start + blockElements / 2; i++) {
      const low = nibble(Math.fround(values[i]! * inverse), 8.5);
      const high = nibble(Math.fround(values[i + blockElements / 2]! * inverse), 8.5);
      target[at++] = low | (high << 4);
    }
  }
}

/** Block: scale and minimum F16, then nibbles as Q4_0 lays them out. */
function encodeQ41(values: Float32Array, target: Uint8Array): void {
  let at = 0;
  for (let start = 0; start < values.length; start += blockElements) {
    let least = values[start]!;
    let most = least;
    for (let i = start + 1; i < start + blockElements; i++) {
      least = Math.min(least, values[i]!);
      most = Math.max(most, values[i]!);
    }
    const scale = Math.fround(Math.fround(most - least) / 15);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    putHalf(scale, target, at);
    putHalf(least, target, at + 2);
    at += 4;
    for (let i = start; i < start + blockElements / 2; i++) {
      const low = nibble(Math.fround(Math.fround(values[i]! - least) * inverse), 0.5);
      const high = nibble(Math.fround(Math.fround(values[i + blockElements / 2]! - least) * inverse), 0.5);
      target[at++] = low | (high << 4);
    }
  }
}

function nibble(scaled: number, offset: number): number {
  return Math.min(15, Math.trunc(Math.fround(scaled + offset)));
}
