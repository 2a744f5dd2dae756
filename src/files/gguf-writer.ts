// Owns writing GGUF version 3: the header in memory, tensor data streamed behind it.
import { randomUUID } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { invariant } from '../common/errors.ts';
import { bytesOf, type DType, dtypes } from './dtype.ts';
import type { GgufArray } from './weights-file.ts';

/** Numbers say their type, since the format has ten of them and readers insist on the right one. */
export type WritableValue =
  | string
  | boolean
  | GgufArray
  | { readonly type: GgufNumberType; readonly value: number | bigint };

export type GgufNumberType = keyof typeof numberTypes;

export interface TensorPlan {
  readonly name: string;
  readonly dtype: DType;
  /** Row-major, outermost first. */
  readonly shape: readonly number[];
}

export interface GgufLayout {
  /** Up to the first tensor's data, padding included. */
  readonly header: Uint8Array;
  /** Per tensor, from the start of the file. */
  readonly byteOffsets: readonly number[];
  readonly numBytes: number;
}

const numberTypes = {
  u8: { id: 0, bytes: 1, put: (v: DataView, at: number, n: number | bigint) => v.setUint8(at, Number(n)) },
  i8: { id: 1, bytes: 1, put: (v: DataView, at: number, n: number | bigint) => v.setInt8(at, Number(n)) },
  u16: { id: 2, bytes: 2, put: (v: DataView, at: number, n: number | bigint) => v.setUint16(at, Number(n), true) },
  i16: { id: 3, bytes: 2, put: (v: DataView, at: number, n: number | bigint) => v.setInt16(at, Number(n), true) },
  u32: { id: 4, bytes: 4, put: (v: DataView, at: number, n: number | bigint) => v.setUint32(at, Number(n), true) },
  i32: { id: 5, bytes: 4, put: (v: DataView, at: number, n: number | bigint) => v.setInt32(at, Number(n), true) },
  f32: { id: 6, bytes: 4, put: (v: DataView, at: number, n: number | bigint) => v.setFloat32(at, Number(n), true) },
  u64: { id: 10, bytes: 8, put: (v: DataView, at: number, n: number | bigint) => v.setBigUint64(at, BigInt(n), true) },
  i64: { id: 11, bytes: 8, put: (v: DataView, at: number, n: number | bigint) => v.setBigInt64(at, BigInt(n), true) },
  f64: { id: 12, bytes: 8, put: (v: DataView, at: number, n: number | bigint) => v.setFloat64(at, Number(n), true) },
} as const;

const boolId = 7;
const stringId = 8;
const arrayId = 9;

export const u32 = (value: number): WritableValue => ({ type: 'u32', value });
export const f32 = (value: number): WritableValue => ({ type: 'f32', value });

/** Lays a file out. `alignment` other than 32 is recorded in the metadata. */
export function layOutGguf(
  metadata: ReadonlyMap<string, WritableValue>,
  tensors: readonly TensorPlan[],
  alignment = 32,
): GgufLayout {
  const entries = [...metadata];
  if (alignment !== 32) entries.push(['general.alignment', u32(alignment)]);
  const out = new ByteSink();
  out.bytes(new TextEncoder().encode('GGUF'));
  out.number('u32', 3);
  out.number('u64', tensors.length);
  out.number('u64', entries.length);
  for (const [key, value] of entries) {
    out.string(key);
    putValue(out, value);
  }
  const align = (n: number) => Math.ceil(n / alignment) * alignment;
  let dataBytes = 0;
  const relative = tensors.map((tensor) => {
    const at = dataBytes;
    putTensor(out, tensor, at);
    dataBytes = align(at + tensorBytes(tensor));
    return at;
  });
  out.pad(align(out.length));
  const header = out.done();
  return {
    header,
    byteOffsets: relative.map((at) => header.length + at),
    numBytes: header.length + dataBytes,
  };
}

/**
 * Writes a file under a temporary name and renames it when complete. `dataOf` yields one tensor's bytes in pieces of
 * any size; a piece may be reused once the next one is asked for.
 */
export async function writeGguf(
  path: string,
  metadata: ReadonlyMap<string, WritableValue>,
  tensors: readonly TensorPlan[],
  dataOf: (tensor: TensorPlan) => Iterable<Uint8Array>,
): Promise<void> {
  const layout = layOutGguf(metadata, tensors);
  const temporary = `${path}.${randomUUID()}.part`;
  const file = await open(temporary, 'w');
  try {
    await file.write(layout.header);
    for (const [index, tensor] of tensors.entries()) {
      let at = layout.byteOffsets[index];
      invariant(at !== undefined, 'one offset per tensor');
      const end = at + tensorBytes(tensor);
      for (const piece of dataOf(tensor)) at += (await file.write(piece, 0, piece.length, at)).bytesWritten;
      invariant(at === end, `${tensor.name} takes ${tensorBytes(tensor)} bytes, ${at - end} more were given`);
    }
    await file.truncate(layout.numBytes);
    await file.close();
    await rename(temporary, path);
  } catch (error) {
    await file.close();
    await rm(temporary, { force: true });
    throw error;
  }
}

function tensorBytes({ dtype, shape }: TensorPlan): number {
  return bytesOf(
    dtype,
    shape.reduce((product, size) => product * size, 1),
  );
}

function putTensor(out: ByteSink, tensor: TensorPlan, offset: number): void {
  const { ggmlType } = dtypes[tensor.dtype];
  invariant(ggmlType !== undefined, `GGUF cannot hold ${tensor.dtype}`);
  out.string(tensor.name);
  out.number('u32', tensor.shape.length);
  for (const size of tensor.shape.toReversed()) out.number('u64', size);
  out.number('u32', ggmlType);
  out.number('u64', offset);
}

function putValue(out: ByteSink, value: WritableValue): void {
  if (typeof value === 'string') {
    out.number('u32', stringId);
    out.string(value);
  } else if (typeof value === 'boolean') {
    out.number('u32', boolId);
    out.number('u8', Number(value));
  } else if ('type' in value) {
    out.number('u32', numberTypes[value.type].id);
    out.number(value.type, value.value);
  } else {
    out.number('u32', arrayId);
    putArray(out, value);
  }
}

function putArray(out: ByteSink, array: GgufArray): void {
  const plain = plainType(array);
  const [first] = array;
  const id =
    plain !== undefined
      ? numberTypes[plain].id
      : typeof first === 'boolean'
        ? boolId
        : typeof first === 'object'
          ? arrayId
          : stringId;
  out.number('u32', id);
  out.number('u64', array.length);
  for (const element of array) {
    if (typeof element === 'string') out.string(element);
    else if (typeof element === 'boolean') out.number('u8', Number(element));
    else if (typeof element === 'object') putArray(out, element);
    else if (plain !== undefined) out.number(plain, element);
  }
}

/** Undefined for arrays of strings, booleans and arrays; an empty plain array counts as one of strings. */
function plainType(array: GgufArray): GgufNumberType | undefined {
  if (array instanceof Uint8Array) return 'u8';
  if (array instanceof Int8Array) return 'i8';
  if (array instanceof Uint16Array) return 'u16';
  if (array instanceof Int16Array) return 'i16';
  if (array instanceof Uint32Array) return 'u32';
  if (array instanceof Int32Array) return 'i32';
  if (array instanceof Float32Array) return 'f32';
  if (array instanceof Float64Array) return 'f64';
  const isWide = array.length > 0 && array.every((e) => typeof e === 'number' || typeof e === 'bigint');
  if (!isWide) return undefined;
  return array.some((e) => e < 0) ? 'i64' : 'u64';
}

/** Grows by doubling: a header with 150,000 tokens takes a few million small writes. */
class ByteSink {
  #bytes = new Uint8Array(1 << 16);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  number(type: GgufNumberType, value: number | bigint): void {
    const { bytes, put } = numberTypes[type];
    const at = this.#grow(bytes);
    put(this.#view, at, value);
  }

  string(text: string): void {
    const bytes = Buffer.from(text, 'utf8');
    this.number('u64', bytes.length);
    this.bytes(bytes);
  }

  bytes(bytes: Uint8Array): void {
    const at = this.#grow(bytes.length);
    this.#bytes.set(bytes, at);
  }

  /** With zeros, up to `length`. */
  pad(length: number): void {
    this.#grow(length - this.#length);
  }

  done(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  #grow(numBytes: number): number {
    const at = this.#length;
    this.#length += numBytes;
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.#length, 2 * this.#bytes.length));
      larger.set(this.#bytes);
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }
}
