// Owns the measured matrix products: those of a layer, in the formats that the models come in.
// Legend: M rows of x, N columns of the product, K their length.
import { invariant } from '../../../common/errors.ts';
import { OpBlock } from '../../../engine/jit/kernels/op.ts';
import { fineRecord, plainRecord, recordRowBytes } from '../../../engine/jit/kernels/product/abi.ts';
import { type PackedFormat, packedBytes, packedLayout } from '../../../engine/jit/kernels/product/layout.ts';
import { gatedRows, sourceBytes } from '../../../engine/jit/kernels/product/pack.ts';
import { PRODUCT_OP_BYTES, type ProductKind, writeProductOp } from '../../../engine/jit/kernels/product/product-op.ts';
import { emitProduct } from '../../../engine/jit/kernels/product/product.ts';
import { gated, multiply } from '../../../engine/tensor/ops.ts';
import { floatRowBytes, floatRows, type KernelCase, WORKING_SET_BYTES } from './case.ts';
import type { MeasuredModel } from './models.ts';

interface Matrix {
  readonly name: string;
  readonly N: number;
  readonly K: number;
  readonly gate: ProductKind['gate'];
}

function matricesOf({ hiddenSize: D, numHeads, numKvHeads, headDim, ffnSize: F }: MeasuredModel): Matrix[] {
  return [
    { name: 'qkv', N: (numHeads + 2 * numKvHeads) * headDim, K: D, gate: null },
    { name: 'output', N: D, K: numHeads * headDim, gate: null },
    { name: 'gate-up', N: F, K: D, gate: 'silu' },
    { name: 'down', N: D, K: F, gate: null },
  ];
}

/** Of a matrix, in a run. */
const MAX_COPIES = 512;

/** First positions of a sequence keep 15 bits of their activations: shown for one matrix of a batch. */
const isMeasuredFine = (format: PackedFormat, { name }: Matrix, M: number) =>
  packedLayout(format)?.kind === 'integer' && name === 'gate-up' && M === 16;

export const productCases = (models: readonly MeasuredModel[], rows: readonly number[]): KernelCase[] =>
  models.flatMap((model) =>
    model.formats.flatMap((format) =>
      matricesOf(model).flatMap((matrix) =>
        rows.flatMap((M) => [
          productCase(model.name, format, matrix, M, false),
          ...(isMeasuredFine(format, matrix, M) ? [productCase(model.name, format, matrix, M, true)] : []),
        ]),
      ),
    ),
  );

function productCase(model: string, format: PackedFormat, matrix: Matrix, M: number, isFine: boolean): KernelCase {
  const { N, K, gate } = matrix;
  const layout = packedLayout(format);
  invariant(layout, `${format} is a packed format`);
  const numRows = gate ? 2 * N : N;
  const matrixBytes = packedBytes(layout, gate ? gatedRows(N) : N, K);
  const copies = (bytes: number) => (M > 64 ? 1 : Math.min(MAX_COPIES, Math.ceil(WORKING_SET_BYTES / bytes)));
  const gatedName = gate ? `${matrix.name} ${gate}` : matrix.name;
  return {
    kernel: `product ${format}${isFine ? ' fine' : ''}`,
    model,
    shape: `${gatedName} ${numRows}x${K}`,
    rows: M,
    work: {
      operations: 2 * M * numRows * K,
      arithmetic: layout.kind === 'float' ? 'f32' : 'int8',
      operationsPerOperation: isFine ? 2 : 1,
      bytes: matrixBytes,
      bytesIn: 'memory',
    },
    emit: (isa) => emitProduct({ layout, isa, isFine, gate }),
    ops: ({ isa, data, memory, rows }) => {
      const kind = { layout, isa, isFine, gate };
      const xRowBytes =
        layout.kind === 'float' ? floatRowBytes(K) : recordRowBytes(isFine ? fineRecord : plainRecord, K);
      const x = memory.memory(M * xRowBytes);
      new Uint8Array(x.buffer).set(new Uint8Array(data.buffer, 0, x.numBytes));
      const out = memory.rows(M, floatRowBytes(N));
      return Array.from({ length: copies(matrixBytes) }, (_, i) => ({
        kernel: 'product',
        emit: () => emitProduct(kind),
        label: 'product',
        rows,
        blockBytes: PRODUCT_OP_BYTES,
        write: (buffer, byteOffset) =>
          writeProductOp(new OpBlock(buffer, byteOffset, PRODUCT_OP_BYTES), kind, {
            N,
            K,
            weights: data.address + i * matrixBytes,
            x: x.address,
            xRowBytes,
            out: out.address,
            outRowBytes: out.rowBytes,
            bias: null,
            mode: 'store',
          }),
      }));
    },
    // Of activations in two parts ggml knows nothing.
    ggml: isFine
      ? null
      : {
          times: copies(numRows * sourceBytes(layout, K)),
          start: (g, { memory, data }) => {
            const x = g.leaf('F32', [M, K], floatRows(memory, M, K).address);
            const bytes = numRows * sourceBytes(layout, K);
            return (time) => {
              const product = multiply(g, x, g.leaf(format, [numRows, K], data.address + time * bytes));
              if (gate) gated(g, 'silu', product, null);
            };
          },
        },
  };
}
