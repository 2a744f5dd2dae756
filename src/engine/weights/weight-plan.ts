// Owns where weights lie in memory and how the work of bringing them there is cut into pieces. Pure.
import { invariant } from '../../common/errors.ts';
import type { TensorInfo } from '../../files/weights-file.ts';
import { bytesOf, type TensorType } from '../tensor/dtype.ts';
import type { RowPlace } from '../jit/kernels/product/pack.ts';
import type { Packing, PackingSpec } from '../tensor/packing.ts';
import { isWeightType } from './dtype-policy.ts';

/** Tensors of one format and row length become one, below each other. */
export interface WeightRequest {
  readonly sources: readonly TensorInfo[];
  readonly target: TensorType;
  /** Added to every element; F32 targets only. */
  readonly add: number;
  /** How the rows are laid out; null: below each other. */
  readonly packing: Packing | null;
}

export interface PlannedWeight {
  readonly type: TensorType;
  readonly shape: readonly number[];
  /** Byte in the weights' memory. */
  readonly offset: number;
  readonly numBytes: number;
}

/** Whole rows of one tensor. */
export interface RowRange {
  readonly tensor: TensorInfo;
  /** Byte in the tensor. */
  readonly offset: number;
  readonly numBytes: number;
  /** Row of the piece that the first one becomes. */
  readonly pieceRow: number;
  readonly place: RowPlace;
}

/** What is prepared at a time, by itself: plain data, so that any thread can. */
export interface Piece {
  readonly kind: 'copy' | 'convert' | 'pack';
  readonly ranges: readonly RowRange[];
  readonly numRows: number;
  readonly rowElements: number;
  readonly dtype: TensorType;
  readonly target: TensorType;
  readonly add: number;
  /** Of `pack` pieces. */
  readonly packing: PackingSpec | null;
  /** Byte in the weights' memory, and how many are written from there. */
  readonly offset: number;
  readonly numBytes: number;
}

export interface WeightPlan {
  readonly numBytes: number;
  /** In the order of the requests. */
  readonly weights: readonly PlannedWeight[];
  readonly pieces: readonly Piece[];
}

const alignment = 64;
/** Read, and held by each thread, at a time. Pieces below the second-level cache's size are packed in it. */
const pieceBytes = 1 << 20;

export function planWeightMemory(requests: readonly WeightRequest[]): WeightPlan {
  const weights: PlannedWeight[] = [];
  const pieces: Piece[] = [];
  let offset = 0;
  for (const request of requests) {
    const numBytes = targetBytes(request);
    weights.push({ type: request.target, shape: stackedShape(request), offset, numBytes });
    if (request.packing) pieces.push(...packedPieces(request, request.packing, offset));
    else pieces.push(...plainPieces(request, offset));
    offset += Math.ceil(numBytes / alignment) * alignment;
  }
  return { numBytes: offset, weights, pieces };
}

const rowElementsOf = ({ shape }: TensorInfo) => shape.at(-1) ?? 1;
const numRowsOf = (tensor: TensorInfo) => tensor.numElements / rowElementsOf(tensor);

function firstOf({ sources }: WeightRequest): TensorInfo {
  const [first] = sources;
  invariant(first, 'a request without sources');
  return first;
}

function targetBytes(request: WeightRequest): number {
  const { sources, target, packing } = request;
  const numRows = sources.reduce((sum, source) => sum + numRowsOf(source), 0);
  if (packing) return packing.numBytes(numRows, rowElementsOf(firstOf(request)));
  return sources.reduce((sum, source) => sum + bytesOf(target, source.numElements), 0);
}

function stackedShape({ sources }: WeightRequest): number[] {
  const [first, ...inner] = sources[0]?.shape ?? [];
  const rows = sources.length === 1 ? first : sources.reduce((sum, source) => sum + (source.shape[0] ?? 1), 0);
  return [rows ?? 1, ...inner];
}

/** Pieces of rows that lie together; one may take its rows from two tensors. */
function packedPieces(request: WeightRequest, packing: Packing, start: number): Piece[] {
  const { sources, target } = request;
  const first = firstOf(request);
  const { dtype } = first;
  invariant(isWeightType(dtype), `tensor ${first.name} is no weight`);
  invariant(
    sources.every((source) => source.dtype === dtype),
    `${first.name} is stacked with tensors of other formats`,
  );
  const rowElements = rowElementsOf(first);
  const rowBytes = bytesOf(dtype, rowElements);
  const numRows = sources.reduce((sum, source) => sum + numRowsOf(source), 0);
  const { rowsTogether, spec } = packing;
  // What is converted is held as F32 on the way.
  const heldBytes = dtype === target ? rowBytes : rowElements * 4;
  const step = Math.max(1, Math.floor(pieceBytes / (rowsTogether * heldBytes))) * rowsTogether;
  const pieces: Piece[] = [];
  for (let row = 0; row < numRows; row += step) {
    const end = Math.min(numRows, row + step);
    const offset = packing.numBytes(row, rowElements);
    pieces.push({
      kind: 'pack',
      ranges: spec.isGated ? gatedRanges(sources, row, end, rowBytes) : rangesOf(sources, row, end, rowBytes),
      numRows: end - row,
      rowElements,
      dtype,
      target,
      add: 0,
      packing: spec,
      offset: start + offset,
      numBytes: packing.numBytes(end, rowElements) - offset,
    });
  }
  return pieces;
}

/** Rows [from, to) of the tensors below each other. */
function rangesOf(sources: readonly TensorInfo[], from: number, to: number, rowBytes: number): RowRange[] {
  const ranges: RowRange[] = [];
  let above = 0;
  for (const tensor of sources) {
    const first = Math.max(from, above);
    const end = Math.min(to, above + numRowsOf(tensor));
    if (first < end) {
      const [offset, numBytes] = [(first - above) * rowBytes, (end - first) * rowBytes];
      ranges.push({ tensor, offset, numBytes, pieceRow: first - from, place: 'plain' });
    }
    above += numRowsOf(tensor);
  }
  return ranges;
}

/** Of rows [from, to) of both together, half of each. */
function gatedRanges(sources: readonly TensorInfo[], from: number, to: number, rowBytes: number): RowRange[] {
  const [offset, numBytes] = [(from / 2) * rowBytes, ((to - from) / 2) * rowBytes];
  return sources.map((tensor, i) => ({ tensor, offset, numBytes, pieceRow: 0, place: i === 0 ? 'gate' : 'up' }));
}

function plainPieces({ sources, target, add }: WeightRequest, start: number): Piece[] {
  const pieces: Piece[] = [];
  let above = start;
  for (const tensor of sources) {
    const { dtype } = tensor;
    invariant(isWeightType(dtype), `tensor ${tensor.name} is no weight`);
    const rowElements = rowElementsOf(tensor);
    const rowBytes = bytesOf(dtype, rowElements);
    const kind = dtype === target && add === 0 ? 'copy' : 'convert';
    // What is converted is held as F32 on the way.
    const step = Math.max(1, Math.floor(pieceBytes / (kind === 'copy' ? rowBytes : rowElements * 4)));
    const numRows = numRowsOf(tensor);
    for (let row = 0; row < numRows; row += step) {
      const count = Math.min(step, numRows - row);
      pieces.push({
        kind,
        ranges: [{ tensor, offset: row * rowBytes, numBytes: count * rowBytes, pieceRow: 0, place: 'plain' }],
        numRows: count,
        rowElements,
        dtype,
        target,
        add,
        packing: null,
        offset: above + bytesOf(target, row * rowElements),
        numBytes: bytesOf(target, count * rowElements),
      });
    }
    above += bytesOf(target, tensor.numElements);
  }
  return pieces;
}
