// Owns what happens to one piece of weights between the file and memory.
import { invariant } from '../../common/errors.ts';
import type { Ggml } from '../ffi/ggml.ts';
import { bytesOf, type TensorType, tensorTypes } from '../tensor/dtype.ts';
import { type Packing, packingOf, type PackingSpec } from '../tensor/packing.ts';
import type { Piece } from './weight-plan.ts';

export interface PieceTools {
  /** Asked for only where a format is converted. */
  readonly ggml: () => Ggml;
  readonly packing: (spec: PackingSpec) => Packing;
}

export function createPieceTools(ggml: () => Ggml): PieceTools {
  const packings = new Map<string, Packing>();
  return {
    ggml,
    packing: (spec) => {
      const name = `${spec.format} ${spec.isGated}`;
      const packing = packings.get(name) ?? packingOf(spec);
      packings.set(name, packing);
      return packing;
    },
  };
}

export const inputBytes = ({ ranges }: Piece): number => ranges.reduce((sum, { numBytes }) => sum + numBytes, 0);

/** `input`: the piece's ranges, one behind the other. `output`: `numBytes`, zeroed. Both start at even addresses. */
export function preparePiece(piece: Piece, input: Uint8Array, output: Uint8Array, tools: PieceTools): void {
  switch (piece.kind) {
    case 'copy':
      output.set(input);
      return;
    case 'convert':
      convert(piece, input, output, tools);
      return;
    case 'pack': {
      invariant(piece.packing, 'a packed piece has a packing');
      const packing = tools.packing(piece.packing);
      let at = 0;
      for (const { numBytes, pieceRow, place } of piece.ranges) {
        const rows = converted(piece, input.subarray(at, at + numBytes), tools);
        packing.pack(rows, piece.rowElements, output, pieceRow, place);
        at += numBytes;
      }
    }
  }
}

/** Whole rows of the piece in its target format. */
function converted(piece: Piece, input: Uint8Array, tools: PieceTools): Uint8Array {
  const { dtype, target, rowElements } = piece;
  if (dtype === target) return input;
  const numRows = input.length / bytesOf(dtype, rowElements);
  const output = new Uint8Array(bytesOf(target, numRows * rowElements));
  convert({ ...piece, numRows }, input, output, tools);
  return output;
}

function convert(piece: Piece, input: Uint8Array, output: Uint8Array, tools: PieceTools): void {
  const { dtype, target, add, numRows, rowElements } = piece;
  const values = toFloat32(tools, dtype, input, numRows * rowElements);
  if (add !== 0) for (let i = 0; i < values.length; i++) values[i]! += add;
  if (target === 'F32') output.set(new Uint8Array(values.buffer));
  else tools.ggml().quantizeRows(tensorTypes[target].ggmlType, values, output, numRows, rowElements);
}

/** Elements of any weight format. */
function toFloat32(tools: PieceTools, type: TensorType, bytes: Uint8Array, count: number): Float32Array {
  const values = new Float32Array(count);
  if (type === 'F32') new Uint8Array(values.buffer).set(bytes);
  else tools.ggml().dequantizeRow(tensorTypes[type].ggmlType, bytes, values);
  return values;
}
