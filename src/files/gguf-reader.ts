// Owns reading a GGUF header: metadata and where each tensor's data lies. Format: ggml's docs/gguf.md, versions 2 and 3.
import { ByteCursor } from './byte-cursor.ts';
import { bytesOf, type DType, dtypes } from './dtype.ts';
import { checkLayout } from './open-file.ts';
import type { GgufArray, GgufMetadata, GgufValue, OpenFile, TensorInfo } from './weights-file.ts';

export interface GgufHeader {
  readonly version: number;
  readonly metadata: GgufMetadata;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
}

/** Far above any real model (a vocabulary of 262,144 with its merges is about 20 MB), far below what hurts. */
const limits = {
  headerBytes: 256 << 20,
  stringBytes: 16 << 20,
  nameBytes: 65_535,
  metadataKeys: 65_536,
  tensors: 1 << 20,
  /** Over all arrays of the header together. */
  arrayElements: 1 << 24,
  arrayDepth: 4,
  alignment: 1 << 20,
} as const;

const maxDims = 4;

const dtypeByGgmlType = new Map<number, DType>();
for (const [dtype, { ggmlType }] of Object.entries(dtypes)) {
  if (ggmlType !== undefined) dtypeByGgmlType.set(ggmlType, dtype as DType);
}

/** Formats that exist but that nothing here reads, so that a refusal can name them. Source: enum ggml_type. */
const unsupportedTypes: ReadonlyMap<number, string> = new Map([
  [4, 'Q4_2 (removed from ggml)'],
  [5, 'Q4_3 (removed from ggml)'],
  [9, 'Q8_1'],
  [15, 'Q8_K'],
  [16, 'IQ2_XXS'],
  [17, 'IQ2_XS'],
  [18, 'IQ3_XXS'],
  [19, 'IQ1_S'],
  [21, 'IQ3_S'],
  [22, 'IQ2_S'],
  [23, 'IQ4_XS'],
  [29, 'IQ1_M'],
  [31, 'Q4_0_4_4 (removed from ggml)'],
  [32, 'Q4_0_4_8 (removed from ggml)'],
  [33, 'Q4_0_8_8 (removed from ggml)'],
  [34, 'TQ1_0'],
  [35, 'TQ2_0'],
  [40, 'NVFP4'],
]);

/** Reads one file's header. `fileIndex` is that of its tensors. Throws XllmError model_file_invalid. */
export function readGgufHeader(file: OpenFile, fileIndex = 0): GgufHeader {
  const cursor = new ByteCursor(file, limits.headerBytes);
  if (cursor.u32('the magic') !== 0x46554747) throw cursor.fault('is not a GGUF file', 0);
  const version = readVersion(cursor);
  const numTensors = cursor.countOf('the number of tensors', limits.tensors, 24);
  const numKeys = cursor.countOf('the number of metadata keys', limits.metadataKeys, 13);
  const metadata = new MetadataReader(cursor).read(numKeys);
  const alignment = readAlignment(cursor, metadata);

  const relative: TensorInfo[] = [];
  for (let i = 0; i < numTensors; i++) relative.push(readTensorInfo(cursor, alignment, fileIndex));
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  const tensors = new Map<string, TensorInfo>();
  for (const tensor of relative) {
    if (tensors.has(tensor.name)) throw cursor.fault(`two tensors are named ${tensor.name}`);
    tensors.set(tensor.name, { ...tensor, byteOffset: dataStart + tensor.byteOffset });
  }
  checkLayout(file, tensors.values());
  return { version, metadata, tensors };
}

function readVersion(cursor: ByteCursor): number {
  const version = cursor.u32('the version');
  if ((version & 0xffff) === 0) throw cursor.fault('is a big-endian GGUF file; convert it to little-endian', 4);
  if (version !== 2 && version !== 3) throw cursor.fault(`has GGUF version ${version}; 2 and 3 are read`, 4);
  return version;
}

function readAlignment(cursor: ByteCursor, metadata: GgufMetadata): number {
  const alignment = metadata.get('general.alignment');
  if (alignment === undefined) return 32;
  const isPowerOfTwo = typeof alignment === 'number' && alignment > 0 && Number.isInteger(Math.log2(alignment));
  if (!isPowerOfTwo || alignment > limits.alignment) {
    throw cursor.fault(`general.alignment is ${String(alignment)}, not a power of two up to ${limits.alignment}`);
  }
  return alignment;
}

/** Its byteOffset still counts from the start of the data. */
function readTensorInfo(cursor: ByteCursor, alignment: number, fileIndex: number): TensorInfo {
  const start = cursor.position;
  const name = cursor.string('a tensor name', limits.nameBytes);
  const numDims = cursor.u32(`the number of dimensions of ${name}`);
  if (numDims > maxDims)
    throw cursor.fault(`${name} has ${numDims} dimensions, at most ${maxDims} are possible`, start);
  const shape: number[] = [];
  let numElements = 1;
  for (let i = 0; i < numDims; i++) {
    const size = cursor.count(`dimension ${i} of ${name}`, Number.MAX_SAFE_INTEGER);
    shape.unshift(size);
    numElements *= size;
  }
  const dtype = readDType(cursor, name);
  const { blockElements } = dtypes[dtype];
  if (blockElements > 1 && (shape.at(-1) ?? 1) % blockElements !== 0) {
    const row = `${name} has rows of ${shape.at(-1) ?? 1} elements`;
    throw cursor.fault(`${row}, not a multiple of ${dtype}'s block of ${blockElements}`, start);
  }
  const numBytes = bytesOf(dtype, numElements);
  if (!Number.isSafeInteger(numElements) || !Number.isSafeInteger(numBytes)) {
    throw cursor.fault(`${name} has an impossible shape [${shape.join(', ')}]`, start);
  }
  const byteOffset = cursor.count(`the offset of ${name}`, Number.MAX_SAFE_INTEGER);
  if (byteOffset % alignment !== 0) {
    throw cursor.fault(`${name} starts at ${byteOffset}, not a multiple of ${alignment}`, start);
  }
  return { name, dtype, shape, numElements, numBytes, fileIndex, byteOffset };
}

function readDType(cursor: ByteCursor, name: string): DType {
  const type = cursor.u32(`the type of ${name}`);
  const dtype = dtypeByGgmlType.get(type);
  if (dtype !== undefined) return dtype;
  const known = [...dtypeByGgmlType.values()].join(', ');
  const typeName = unsupportedTypes.get(type) ?? `the unknown type ${type}`;
  throw cursor.fault(`${name} is in ${typeName}, which is not supported; supported: ${known}`, cursor.position - 4);
}

/** Value types by their number in the file. */
const scalarReaders = [
  (c: ByteCursor, what: string) => c.u8(what),
  (c: ByteCursor, what: string) => c.i8(what),
  (c: ByteCursor, what: string) => c.u16(what),
  (c: ByteCursor, what: string) => c.i16(what),
  (c: ByteCursor, what: string) => c.u32(what),
  (c: ByteCursor, what: string) => c.i32(what),
  (c: ByteCursor, what: string) => c.f32(what),
  (c: ByteCursor, what: string) => c.u8(what) !== 0,
  (c: ByteCursor, what: string) => c.string(what, limits.stringBytes),
] as const;
const arrayType = 9;
const u64Type = 10;
const i64Type = 11;
const f64Type = 12;
const boolType = 7;
const stringType = 8;

/** Arrays of plain numbers are copied as they lie: file and host are both little-endian. */
const typedArrays: Readonly<Record<number, { bytes: number; of(buffer: ArrayBuffer): GgufArray }>> = {
  0: { bytes: 1, of: (b) => new Uint8Array(b) },
  1: { bytes: 1, of: (b) => new Int8Array(b) },
  2: { bytes: 2, of: (b) => new Uint16Array(b) },
  3: { bytes: 2, of: (b) => new Int16Array(b) },
  4: { bytes: 4, of: (b) => new Uint32Array(b) },
  5: { bytes: 4, of: (b) => new Int32Array(b) },
  6: { bytes: 4, of: (b) => new Float32Array(b) },
  [f64Type]: { bytes: 8, of: (b) => new Float64Array(b) },
};

class MetadataReader {
  readonly #cursor: ByteCursor;
  #elementsLeft: number = limits.arrayElements;

  constructor(cursor: ByteCursor) {
    this.#cursor = cursor;
  }

  read(numKeys: number): GgufMetadata {
    const metadata = new Map<string, GgufValue>();
    for (let i = 0; i < numKeys; i++) {
      const start = this.#cursor.position;
      const key = this.#cursor.string('a metadata key', limits.nameBytes);
      if (metadata.has(key)) throw this.#cursor.fault(`two metadata keys are ${key}`, start);
      metadata.set(key, this.#value(this.#cursor.u32(`the type of ${key}`), key));
    }
    return metadata;
  }

  #value(type: number, key: string): GgufValue {
    const cursor = this.#cursor;
    if (type === arrayType) return this.#array(key, 1);
    if (type === u64Type) return cursor.u64(key);
    if (type === i64Type) return cursor.i64(key);
    if (type === f64Type) return cursor.f64(key);
    const reader = scalarReaders[type];
    if (reader === undefined) throw cursor.fault(`${key} has the unknown value type ${type}`, cursor.position - 4);
    return reader(cursor, key);
  }

  #array(key: string, depth: number): GgufArray {
    const cursor = this.#cursor;
    if (depth > limits.arrayDepth) throw cursor.fault(`${key} nests arrays deeper than ${limits.arrayDepth}`);
    const type = cursor.u32(`the element type of ${key}`);
    const typed = typedArrays[type];
    const minBytes = typed?.bytes ?? (type === boolType ? 1 : type === arrayType ? 12 : 8);
    const length = cursor.countOf(`the length of ${key}`, this.#elementsLeft, minBytes);
    this.#elementsLeft -= length;
    if (typed !== undefined) return typed.of(cursor.bytes(length * typed.bytes, key));
    switch (type) {
      case boolType:
        return Array.from({ length }, () => cursor.u8(key) !== 0);
      case stringType:
        return Array.from({ length }, () => cursor.string(key, limits.stringBytes));
      case u64Type:
        return Array.from({ length }, () => cursor.u64(key));
      case i64Type:
        return Array.from({ length }, () => cursor.i64(key));
      case arrayType:
        return Array.from({ length }, () => this.#array(key, depth + 1));
      default:
        throw cursor.fault(`${key} has the unknown element type ${type}`);
    }
  }
}
