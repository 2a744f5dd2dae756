// Owns the measured row kernels: norms, rounding, gated activations, rope, embeddings.
// Legend: M rows, D features.
import { invariant } from '../../../common/errors.ts';
import type { MachineCode } from '../../../engine/jit/asm/program.ts';
import type { Isa } from '../../../engine/jit/cpu-features.ts';
import { OpBlock } from '../../../engine/jit/kernels/op.ts';
import { fineRecord, plainRecord, type RecordLayout, recordRowBytes } from '../../../engine/jit/kernels/product/abi.ts';
import { packedBytes, packedLayout } from '../../../engine/jit/kernels/product/layout.ts';
import { emitEmbed, embedOp } from '../../../engine/jit/kernels/rows/embed.ts';
import { emitGate, gateOp } from '../../../engine/jit/kernels/rows/gate.ts';
import { emitNorm, normOp } from '../../../engine/jit/kernels/rows/norm.ts';
import { emitQuantise, quantiseOp } from '../../../engine/jit/kernels/rows/quantise.ts';
import { emitRope, type RopeOptions, ropeOp } from '../../../engine/jit/kernels/rows/rope.ts';
import { fillRopeTable } from '../../../engine/jit/kernels/rows/rope-table.ts';
import { type OpLayout, writeRowOp } from '../../../engine/jit/kernels/rows/row-op.ts';
import type { Graph } from '../../../engine/tensor/graph.ts';
import { gated, getRows, rmsNorm, rope } from '../../../engine/tensor/ops.ts';
import { floatRows, type GgmlWork, type KernelCase, numRowOps, type Workplace } from './case.ts';
import type { MeasuredModel } from './models.ts';

const NORM_EPS = 1e-6;
const ROPE_BASE = 10_000;
/** Ids of the measured table of embeddings. */
const NUM_IDS = 4096;

export const rowCases = (models: readonly MeasuredModel[], rows: readonly number[]): KernelCase[] =>
  models.flatMap((model) =>
    [normCase(plainRecord), normCase(fineRecord), quantiseCase, gateCase, ropeCase, embedCase].flatMap((caseOf) =>
      rows.map((M) => caseOf(model, M)),
    ),
  );

interface RowCase<Name extends string> {
  readonly kernel: string;
  readonly model: MeasuredModel;
  readonly shape: string;
  readonly M: number;
  /** Read and written. */
  readonly bytes: number;
  readonly layout: OpLayout<Name>;
  readonly emit: (isa: Isa) => MachineCode;
  readonly fields: (place: Workplace) => Readonly<Record<NoInfer<Name>, number>>;
  readonly ggml: GgmlWork['start'] | null;
}

function rowCase<Name extends string>(of: RowCase<Name>): KernelCase {
  const { kernel, model, shape, M, bytes, layout, emit, fields, ggml } = of;
  return {
    kernel,
    model: model.name,
    shape,
    rows: M,
    work: { operations: 0, arithmetic: 'f32', operationsPerOperation: 1, bytes, bytesIn: 'cache' },
    emit,
    ops: (place) => {
      const values = fields(place);
      return Array.from({ length: numRowOps(M) }, () => ({
        kernel,
        emit: () => emit(place.isa),
        label: kernel,
        rows: place.rows,
        blockBytes: layout.bytes,
        write: (buffer, byteOffset) => {
          const block = new OpBlock(buffer, byteOffset, layout.bytes);
          writeRowOp(layout, block, { ...values, rows: place.rows } as Record<Name | 'rows', number>);
        },
      }));
    },
    ggml: ggml && { times: numRowOps(M), start: ggml },
  };
}

function normCase(record: RecordLayout): (model: MeasuredModel, M: number) => KernelCase {
  return (model, M) => {
    const D = model.hiddenSize;
    const outBytes = recordRowBytes(record, D);
    return rowCase({
      kernel: `norm to ${record.isFine ? 'fine ' : ''}records`,
      model,
      shape: `${D}`,
      M,
      bytes: M * (4 * D + outBytes) + 4 * D,
      layout: normOp,
      emit: (isa) => emitNorm({ isa, kind: 'rms', numFeatures: D, eps: NORM_EPS, record, floats: 'none' }),
      fields: ({ memory }) => {
        const x = floatRows(memory, M, D);
        return {
          x: x.address,
          xRowBytes: x.rowBytes,
          weight: floatRows(memory, 1, D).address,
          bias: 0,
          records: memory.rows(M, outBytes).address,
          out: 0,
          outRowBytes: 0,
        };
      },
      ggml: (g, place) => {
        const [x, weight] = [matrixOf(g, place, M, D), vectorOf(g, place, D)];
        return () => rmsNorm(g, x, weight, NORM_EPS);
      },
    });
  };
}

/** ggml rounds rows within its products. */
function quantiseCase(model: MeasuredModel, M: number): KernelCase {
  const D = model.ffnSize;
  const outBytes = recordRowBytes(plainRecord, D);
  return rowCase({
    kernel: 'quantise to records',
    model,
    shape: `${D}`,
    M,
    bytes: M * (4 * D + outBytes),
    layout: quantiseOp,
    emit: (isa) => emitQuantise({ isa, numFeatures: D, record: plainRecord }),
    fields: ({ memory }) => {
      const x = floatRows(memory, M, D);
      return { x: x.address, xRowBytes: x.rowBytes, records: memory.rows(M, outBytes).address };
    },
    ggml: null,
  });
}

function gateCase(model: MeasuredModel, M: number): KernelCase {
  const F = model.ffnSize;
  const outBytes = recordRowBytes(plainRecord, F);
  return rowCase({
    kernel: 'silu gate to records',
    model,
    shape: `2x${F}`,
    M,
    bytes: M * (8 * F + outBytes),
    layout: gateOp,
    emit: (isa) => emitGate({ isa, activation: 'silu', numFeatures: F, record: plainRecord }),
    fields: ({ memory }) => {
      const x = floatRows(memory, M, 2 * F);
      const out = memory.rows(M, outBytes);
      return {
        gate: x.address,
        gateRowBytes: x.rowBytes,
        up: x.address + 4 * F,
        upRowBytes: x.rowBytes,
        out: out.address,
        outRowBytes: out.rowBytes,
      };
    },
    ggml: (g, place) => {
      const x = matrixOf(g, place, M, 2 * F);
      return () => gated(g, 'silu', x, null);
    },
  });
}

function ropeCase(model: MeasuredModel, M: number): KernelCase {
  const { numHeads, numKvHeads, headDim, ropePairs: pairs, hasHeadNorms } = model;
  const width = (numHeads + numKvHeads) * headDim;
  const options: Omit<RopeOptions, 'isa'> = {
    numHeads,
    numKvHeads,
    headDim,
    rotaryDim: headDim,
    pairs,
    headNormEps: hasHeadNorms ? NORM_EPS : null,
  };
  return rowCase({
    kernel: hasHeadNorms ? 'rope with norms' : 'rope',
    model,
    shape: `(${numHeads}+${numKvHeads})x${headDim}`,
    M,
    // In place, and the rows of the table.
    bytes: M * (8 * width + 4 * headDim),
    layout: ropeOp,
    emit: (isa) => emitRope({ isa, ...options }),
    fields: ({ memory }) => {
      const x = floatRows(memory, M, width);
      const table = memory.memory(M * headDim * 4);
      const frequencies = { base: ROPE_BASE, rotaryDim: headDim, frequencyFactors: null, attnFactor: 1 };
      fillRopeTable(new Float32Array(table.buffer), 0, M, frequencies);
      const norm = floatRows(memory, 1, headDim).address;
      return {
        q: x.address,
        qRowBytes: x.rowBytes,
        k: x.address + 4 * numHeads * headDim,
        kRowBytes: x.rowBytes,
        positions: positionsOf(memory, M, M).address,
        table: table.address,
        qNorm: norm,
        kNorm: norm,
      };
    },
    ggml: (g, place) => {
      const positions = g.leaf('I32', [M], positionsOf(place.memory, M, M).address);
      const norm = hasHeadNorms ? vectorOf(g, place, headDim) : null;
      const [q, k] = [numHeads, numKvHeads].map((heads) => {
        return g.leaf('F32', [M, heads, headDim], floatRows(place.memory, M, heads * headDim).address);
      });
      return () => {
        for (const x of [q, k]) {
          invariant(x, 'queries and keys');
          const normed = norm ? rmsNorm(g, x, norm, NORM_EPS) : x;
          rope(g, normed, positions, { pairs, base: ROPE_BASE, attnFactor: 1, frequencyFactors: null });
        }
      };
    },
  });
}

function embedCase(model: MeasuredModel, M: number): KernelCase {
  const { hiddenSize: D, formats } = model;
  const format = formats[0];
  const table = format && packedLayout(format);
  invariant(table, 'models have a packed format');
  return rowCase({
    kernel: `embedding ${format}`,
    model,
    shape: `${D}`,
    M,
    bytes: M * (4 * D + packedBytes(table, NUM_IDS, D) / NUM_IDS),
    layout: embedOp,
    emit: (isa) => emitEmbed({ isa, numFeatures: D, table, scale: 1 }),
    fields: ({ memory, data }) => {
      const out = floatRows(memory, M, D);
      return {
        tokens: positionsOf(memory, M, NUM_IDS).address,
        sampled: 0,
        sampledBytes: 0,
        table: data.address,
        out: out.address,
        outRowBytes: out.rowBytes,
      };
    },
    ggml: (g, { memory, data }) => {
      const tokens = g.leaf('I32', [M], positionsOf(memory, M, NUM_IDS).address);
      const source = g.leaf(format, [NUM_IDS, D], data.address);
      return () => getRows(g, source, tokens);
    },
  });
}

const matrixOf = (g: Graph, { memory }: Workplace, M: number, D: number) =>
  g.leaf('F32', [M, D], floatRows(memory, M, D).address);
const vectorOf = (g: Graph, { memory }: Workplace, D: number) => g.leaf('F32', [D], floatRows(memory, 1, D).address);

/** I32 [M], all different, below `limit`. */
function positionsOf(memory: Workplace['memory'], M: number, limit: number) {
  const positions = memory.memory(4 * M);
  new Int32Array(positions.buffer, 0, M).forEach((_, i, all) => (all[i] = (i * 1777) % limit));
  return positions;
}
