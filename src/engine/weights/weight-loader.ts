// Owns bringing tensors from files into native memory: streamed, converted where asked, related ones stacked.
import { invariant, XllmError } from '../../common/errors.ts';
import type { TensorFiles, TensorInfo } from '../../files/weights-file.ts';
import type { Ggml } from '../ffi/ggml.ts';
import type { Address } from '../ffi/koffi.ts';
import { SystemError } from '../ffi/libc.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import { bytesOf, type TensorType, tensorTypes } from '../tensor/dtype.ts';
import { isWeightType } from './dtype-policy.ts';
import type { Packing } from './packing.ts';

/** Tensors of one format and row length become one, below each other. */
export interface WeightRequest {
  readonly sources: readonly TensorInfo[];
  readonly target: TensorType;
  /** Added to every element; F32 targets only. */
  readonly add: number;
  /** How the rows are laid out; null: below each other. */
  readonly packing: Packing | null;
}

export interface Weight {
  readonly type: TensorType;
  readonly shape: readonly number[];
  readonly address: Address;
}

export interface LoadedWeights {
  /** In the order of the requests. */
  readonly weights: readonly Weight[];
  readonly memory: NativeMemory;
}

const alignment = 64;
/** Bytes read at a time where a conversion is needed; a multiple of every block size comes of whole rows. */
const pieceBytes = 4 * 1024 * 1024;

/**
 * Loads all requests into one allocation. Throws XllmError out_of_memory when the system refuses it,
 * model_file_invalid when a file has shrunk.
 */
export async function loadWeights(
  ggml: Ggml,
  files: TensorFiles,
  requests: readonly WeightRequest[],
  onProgress: (bytesDone: number, bytesTotal: number) => void = () => {},
): Promise<LoadedWeights> {
  const offsets: number[] = [];
  let numBytes = 0;
  for (const request of requests) {
    offsets.push(numBytes);
    numBytes += Math.ceil(targetBytes(request) / alignment) * alignment;
  }
  const memory = allocate(numBytes);
  const weights: Weight[] = [];
  try {
    for (const [i, request] of requests.entries()) {
      let offset = offsets[i] ?? 0;
      const end = offset + targetBytes(request);
      const { packing } = request;
      weights.push({ type: request.target, shape: stackedShape(request), address: memory.address + offset });
      let row = 0;
      for (const source of request.sources) {
        const length = bytesOf(request.target, source.numElements);
        const destination = new Uint8Array(memory.buffer, offset, packing ? end - offset : length);
        if (packing) await loadPacked(files, source, request, packing, destination, row);
        else {
          await loadTensor(ggml, files, source, request, destination);
          offset += length;
        }
        row += source.shape[0] ?? 1;
      }
      onProgress(end, numBytes);
    }
  } catch (error) {
    memory.free();
    throw error;
  }
  return { weights, memory };
}

function targetBytes({ sources, target, packing }: WeightRequest): number {
  if (packing) {
    const numRows = sources.reduce((sum, { shape }) => sum + (shape[0] ?? 1), 0);
    return packing.numBytes(numRows, sources[0]?.shape.at(-1) ?? 1);
  }
  return sources.reduce((sum, source) => sum + bytesOf(target, source.numElements), 0);
}

function stackedShape({ sources }: WeightRequest): number[] {
  const [first, ...inner] = sources[0]?.shape ?? [];
  const rows = sources.length === 1 ? first : sources.reduce((sum, source) => sum + (source.shape[0] ?? 1), 0);
  return [rows ?? 1, ...inner];
}

function allocate(numBytes: number): NativeMemory {
  try {
    return allocateNative(numBytes);
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    throw new XllmError('out_of_memory', `the weights need ${Math.ceil(numBytes / 2 ** 20)} MiB: ${cause.message}`, {
      cause,
    });
  }
}

async function loadTensor(
  ggml: Ggml,
  files: TensorFiles,
  source: TensorInfo,
  { target, add }: WeightRequest,
  destination: Uint8Array,
): Promise<void> {
  const { dtype } = source;
  if (dtype === target && add === 0) {
    for (let offset = 0; offset < destination.length; offset += pieceBytes) {
      await files.read(source, destination.subarray(offset, offset + pieceBytes), offset);
    }
    return;
  }
  invariant(isWeightType(dtype), `tensor ${source.name} is no weight`);
  const rowElements = source.shape.at(-1) ?? 1;
  const rowBytes = bytesOf(dtype, rowElements);
  const numRows = source.numElements / rowElements;
  const rowsAtOnce = Math.max(1, Math.floor(pieceBytes / rowBytes));
  const raw = new Uint8Array(Math.min(rowsAtOnce, numRows) * rowBytes);
  for (let row = 0; row < numRows; row += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, numRows - row);
    const piece = raw.subarray(0, rows * rowBytes);
    await files.read(source, piece, row * rowBytes);
    const values = toFloat32(ggml, dtype, piece, rows * rowElements);
    if (add !== 0) for (let i = 0; i < values.length; i++) values[i]! += add;
    const out = destination.subarray(bytesOf(target, row * rowElements), bytesOf(target, (row + rows) * rowElements));
    if (target === 'F32') out.set(new Uint8Array(values.buffer));
    else ggml.quantizeRows(tensorTypes[target].ggmlType, values, out, rows, rowElements);
  }
}

/** Packs a source as rows `firstRow`, … of the matrix at `destination`. */
async function loadPacked(
  files: TensorFiles,
  source: TensorInfo,
  { target }: WeightRequest,
  packing: Packing,
  destination: Uint8Array,
  firstRow: number,
): Promise<void> {
  invariant(source.dtype === target, `packing converts nothing, ${source.name} is ${source.dtype}`);
  const rowElements = source.shape.at(-1) ?? 1;
  const rowBytes = bytesOf(target, rowElements);
  const numRows = source.numElements / rowElements;
  const rowsAtOnce = Math.max(1, Math.floor(pieceBytes / rowBytes));
  const raw = new Uint8Array(Math.min(rowsAtOnce, numRows) * rowBytes);
  for (let row = 0; row < numRows; row += rowsAtOnce) {
    const piece = raw.subarray(0, Math.min(rowsAtOnce, numRows - row) * rowBytes);
    await files.read(source, piece, row * rowBytes);
    packing.pack(piece, rowElements, destination, firstRow + row);
  }
}

/** Elements of any weight format. */
function toFloat32(ggml: Ggml, type: TensorType, bytes: Uint8Array, count: number): Float32Array {
  const values = new Float32Array(count);
  if (type === 'F32') new Uint8Array(values.buffer).set(bytes);
  else ggml.dequantizeRow(tensorTypes[type].ggmlType, bytes, values);
  return values;
}
