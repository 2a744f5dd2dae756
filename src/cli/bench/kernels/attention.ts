// Owns the measured kernels of the KV cache: attention of decoding and of prompts, and the writing of keys and values.
import {
  headBytes,
  KV_OP_BYTES,
  type KvShape,
  type LayerPages,
  writeAttentionOp,
  writeKvWriteOp,
} from '../../../engine/jit/kernels/abi.ts';
import { attentionScratchBytes, emitAttentionOp } from '../../../engine/jit/kernels/attention/attention.ts';
import { emitKvWriteOp } from '../../../engine/jit/kernels/kv-write.ts';
import {
  countStep,
  type KvRow,
  pointStepCell,
  stepBlockBytes,
  writeStepBlock,
} from '../../../engine/jit/kernels/step-block.ts';
import type { OpSpec } from '../../../engine/program/program-builder.ts';
import { flashAttention } from '../../../engine/tensor/ops.ts';
import { DATA_BYTES, floatRows, type KernelCase, numRowOps, WORKING_SET_BYTES, type Workplace } from './case.ts';
import type { MeasuredModel } from './models.ts';

/** They say how far apart the parts of a layer's pages lie. */
const NUM_LAYERS = 28;
const BLOCK_TOKENS = 16;

/** What a step works on: rows of the batch, with so many tokens each, the last ones of the context. */
interface Batch {
  readonly size: number;
  readonly numTokens: number;
  readonly context: number;
}

const attended: readonly Batch[] = [
  { size: 1, numTokens: 1, context: 2048 },
  { size: 16, numTokens: 1, context: 2048 },
  { size: 1, numTokens: 512, context: 512 },
];
const written: readonly Batch[] = [
  { size: 1, numTokens: 1, context: 512 },
  { size: 16, numTokens: 1, context: 512 },
  { size: 1, numTokens: 512, context: 512 },
];

const nameOf = ({ size, numTokens, context }: Batch) =>
  numTokens === 1 ? `decode ${size} at ${context}` : `prefill ${numTokens}`;

/** Of the first of models that have equal heads. */
export function kvCases(models: readonly MeasuredModel[]): KernelCase[] {
  const byHeads = new Map(models.toReversed().map((model) => [shapeText(shapeOf(model)), model]));
  const distinct = [...byHeads.values()].toReversed();
  return [
    ...distinct.flatMap((model) => attended.map((batch) => attentionCase(model, batch))),
    ...distinct.flatMap((model) => written.map((batch) => writeCase(model, batch))),
  ];
}

const shapeOf = ({ numHeads, numKvHeads, headDim }: MeasuredModel): KvShape => ({
  numHeads,
  numKvHeads,
  headDim,
  blockTokens: BLOCK_TOKENS,
  element: 'f16',
  hasSoftCap: false,
});
const shapeText = ({ numHeads, numKvHeads, headDim }: KvShape) => `${numHeads}/${numKvHeads}x${headDim}`;

function attentionCase(model: MeasuredModel, batch: Batch): KernelCase {
  const shape = shapeOf(model);
  const { numHeads, headDim } = shape;
  const { size, numTokens, context } = batch;
  const positions = context - (numTokens - 1) / 2;
  const bytes = 2 * shape.numKvHeads * headBytes(shape) * (context / BLOCK_TOKENS) * size;
  return {
    kernel: `attention ${nameOf(batch)}`,
    model: model.name,
    shape: `${shapeText(shape)} f16`,
    rows: size * numTokens,
    work: {
      operations: 4 * numHeads * headDim * size * numTokens * positions,
      arithmetic: 'f32',
      operationsPerOperation: 1,
      bytes,
      bytesIn: 'memory',
    },
    emit: (isa) => emitAttentionOp(shape, isa),
    ops: (place) => attentionOps(shape, batch, timesOf(batch, bytes), place),
    ggml: {
      times: timesOf(batch, bytes),
      start: (g, { memory, data }) => {
        const queryBytes = 4 * numHeads * headDim;
        const strides = [numTokens * queryBytes, headDim * 4, queryBytes, 4];
        const queries = memory.memory(size * numTokens * queryBytes);
        new Float32Array(queries.buffer).forEach((_, i, all) => (all[i] = Math.sin(i)));
        const q = g.leaf('F32', [size, numHeads, numTokens, headDim], queries.address, strides);
        const mask = g.leaf('F16', [size, 1, numTokens, context], maskOf(batch, memory));
        return (time) => {
          const at = data.address + time * bytes;
          const cached = [size, shape.numKvHeads, context, headDim];
          flashAttention(g, q, g.leaf('F16', cached, at), g.leaf('F16', cached, at + bytes / 2), mask, headDim ** -0.5);
        };
      },
    },
  };
}

/** As F16. */
const MINUS_INFINITY = 0xfc00;

/** F16 [size,1,numTokens,context]: causal. */
function maskOf({ size, numTokens, context }: Batch, memory: Workplace['memory']): number {
  const { address, buffer } = memory.memory(size * numTokens * context * 2);
  const halves = new Uint16Array(buffer);
  for (let i = 0; i < size * numTokens * context; i++) {
    const [token, position] = [Math.floor(i / context) % numTokens, i % context];
    halves[i] = position <= context - numTokens + token ? 0 : MINUS_INFINITY;
  }
  return address;
}

/** Decoding reads other keys and values each time; a prompt's are in the caches, where its tokens have put them. */
const timesOf = ({ numTokens }: Batch, bytes: number): number =>
  numTokens > 1 ? 1 : Math.ceil(Math.min(DATA_BYTES - bytes, WORKING_SET_BYTES) / bytes);

/** Where a layer's keys and values lie in the pages of several sequences, batch after batch. */
interface Cache {
  readonly numBatches: number;
  readonly numLayers: number;
  readonly layerBytes: number;
  readonly pageBytes: number;
}

function cacheOf(shape: KvShape, { size, context }: Batch, times: number): Cache {
  const layerBytes = 2 * shape.numKvHeads * headBytes(shape);
  const numPages = (context / BLOCK_TOKENS) * size;
  const numLayers = Math.min(NUM_LAYERS, Math.floor(DATA_BYTES / (layerBytes * numPages)));
  const pageBytes = numLayers * layerBytes;
  const numBatches = Math.min(Math.ceil(times / numLayers), Math.floor(DATA_BYTES / (pageBytes * numPages)));
  return { numBatches, numLayers, layerBytes, pageBytes };
}

/** Step cells of the batches, which point to step blocks. */
function stepCells(shape: KvShape, batch: Batch, { numBatches, pageBytes }: Cache, { data, memory }: Workplace) {
  const { size, numTokens, context } = batch;
  const cells = memory.memory(8 * numBatches);
  for (let i = 0; i < numBatches; i++) {
    const rows = Array.from({ length: size }, (_, b): KvRow => {
      const address = data.address + (i * size + b) * (context / BLOCK_TOKENS) * pageBytes;
      const segments = [{ address, firstPosition: 0, numTokens: context }];
      return { firstPosition: context - numTokens, numTokens, segments };
    });
    const step = memory.memory(stepBlockBytes(countStep(shape, rows)));
    writeStepBlock(step.buffer, 0, shape, pageBytes, rows);
    pointStepCell(cells.buffer, 8 * i, step.address);
  }
  return cells.address;
}

/** `times` ops, each on another layer of one batch after the other, as far as they reach. */
function kvOps(
  shape: KvShape,
  batch: Batch,
  times: number,
  place: Workplace,
  op: Pick<OpSpec, 'kernel' | 'emit'>,
  write: (buffer: ArrayBuffer, byteOffset: number, pages: LayerPages) => void,
): OpSpec[] {
  const cache = cacheOf(shape, batch, times);
  const { numBatches, numLayers, layerBytes, pageBytes } = cache;
  const cells = stepCells(shape, batch, cache, place);
  return Array.from({ length: times }, (_, i): OpSpec => {
    const keyOffset = (i % numLayers) * layerBytes;
    const stepCell = cells + 8 * (Math.floor(i / numLayers) % numBatches);
    const pages = { stepCell, keyOffset, valueOffset: keyOffset + layerBytes / 2, pageBytes };
    return {
      ...op,
      label: op.kernel,
      rows: place.rows,
      blockBytes: KV_OP_BYTES,
      write: (buffer, byteOffset) => write(buffer, byteOffset, pages),
    };
  });
}

function attentionOps(shape: KvShape, batch: Batch, times: number, place: Workplace): OpSpec[] {
  const { numHeads, headDim } = shape;
  const { isa, numThreads, memory, rows } = place;
  const width = numHeads * headDim;
  const numRows = batch.size * batch.numTokens;
  const [queries, out] = [floatRows(memory, numRows, width), floatRows(memory, numRows, width)];
  const scratchBytes = attentionScratchBytes(shape);
  const scratch = memory.memory(numThreads * scratchBytes);
  const op = { kernel: 'attention', emit: () => emitAttentionOp(shape, isa) };
  return kvOps(shape, batch, times, place, op, (buffer, byteOffset, pages) =>
    writeAttentionOp(buffer, byteOffset, {
      ...pages,
      rows,
      queries: { ...queries, headBytes: headDim * 4 },
      out,
      window: null,
      scale: headDim ** -0.5,
      softCap: null,
      sinks: null,
      scratch: scratch.address,
      scratchBytes,
    }),
  );
}

function writeCase(model: MeasuredModel, batch: Batch): KernelCase {
  const shape = shapeOf(model);
  const { numKvHeads, headDim } = shape;
  const numRows = batch.size * batch.numTokens;
  const width = numKvHeads * headDim;
  return {
    kernel: 'kv-write',
    model: model.name,
    shape: `${shapeText(shape)} f16`,
    rows: numRows,
    work: {
      operations: 0,
      arithmetic: 'f32',
      operationsPerOperation: 1,
      bytes: numRows * 2 * width * (4 + 2),
      bytesIn: 'memory',
    },
    emit: (isa) => emitKvWriteOp(shape, isa),
    ops: (place) => {
      const [keys, values] = [floatRows(place.memory, numRows, width), floatRows(place.memory, numRows, width)];
      const op = { kernel: 'kv-write', emit: () => emitKvWriteOp(shape, place.isa) };
      // Different layers take turns, as in a step: their pages are not in the caches.
      return kvOps(shape, batch, numRowOps(numRows), place, op, (buffer, byteOffset, pages) =>
        writeKvWriteOp(buffer, byteOffset, {
          ...pages,
          rows: place.rows,
          keys: { ...keys, headBytes: headDim * 4 },
          values: { ...values, headBytes: headDim * 4 },
        }),
      );
    },
    // It writes rows of one token after the other, and to one sequence at a time.
    ggml: null,
  };
}
