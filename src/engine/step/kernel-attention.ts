// Owns attention by emitted kernels: their per-layer constants, and what they read of each step.
import { invariant } from '../../common/errors.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import {
  countStep,
  type KvRow,
  type KvSegment,
  type KvShape,
  KV_OP_BYTES,
  stepBlockBytes,
  writeAttentionOp,
  writeStepBlock,
} from '../jit/kernels/abi.ts';
import { attentionScratchBytes } from '../jit/kernels/attention/attention.ts';
import { type CacheGroup, firstReadPosition } from '../kv/cache-group.ts';
import { layerOffset, type PageLayout } from '../kv/layout.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import { forEachSegment } from '../kv/spaces/segments.ts';
import type { Attention } from '../models/blocks.ts';
import type { ModelConfig } from '../models/config.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import { custom } from '../tensor/ops.ts';
import type { AttentionPath, AttentionShape } from './attention-path.ts';
import type { KernelCode } from './kernel-code.ts';
import { SwitchedBlock } from './switched-block.ts';

export interface KernelAttentionOptions {
  readonly config: ModelConfig;
  readonly groups: readonly CacheGroup[];
  readonly shapes: readonly KvShape[];
  readonly space: KvSpace;
  readonly code: KernelCode;
  readonly numThreads: number;
}

/** What the kernels of each group are emitted for. */
export function kvShapes(
  config: ModelConfig,
  groups: readonly CacheGroup[],
  layouts: readonly PageLayout[],
): KvShape[] {
  return groups.map(({ name, numKvHeads, keyDim, element }, g) => {
    const layout = layouts[g];
    invariant(layout, `the KV space lacks group ${name}`);
    const { blockTokens } = layout;
    return { numHeads: config.numHeads, numKvHeads, headDim: keyDim, blockTokens, element, hasSoftCap: false };
  });
}

export class KernelAttention implements AttentionPath {
  readonly #options: KernelAttentionOptions;
  /** Node blocks by layer, then step cells by group. */
  readonly #blocks: NativeMemory;
  readonly #scratch: NativeMemory;
  readonly #steps: readonly SwitchedBlock[];

  constructor(options: KernelAttentionOptions) {
    const { config, groups, shapes, space, numThreads } = options;
    this.#options = options;
    const cellsAt = config.layers.length * KV_OP_BYTES;
    this.#blocks = allocateNative(cellsAt + groups.length * 64);
    const scratchBytes = Math.max(...shapes.map(attentionScratchBytes));
    this.#scratch = allocateNative(scratchBytes * numThreads);
    this.#steps = groups.map((_, g) => new SwitchedBlock(this.#blocks.buffer, cellsAt + g * 64));
    for (const [g, group] of groups.entries()) {
      const layout = space.layouts[g];
      invariant(layout, `the KV space lacks group ${group.name}`);
      for (const [index, layer] of group.layers.entries()) {
        const keyOffset = layerOffset(layout, index);
        writeAttentionOp(this.#blocks.buffer, layer * KV_OP_BYTES, {
          // Nodes find these in their tensors.
          rows: 0,
          queries: { address: 0, rowBytes: 0, headBytes: 0 },
          out: { address: 0, rowBytes: 0 },
          stepCell: this.#blocks.address + cellsAt + g * 64,
          keyOffset,
          valueOffset: keyOffset + layout.valueOffset,
          pageBytes: layout.pageBytes,
          window: group.kind.type === 'window' ? group.kind.numTokens : null,
          scale: config.attentionScale,
          softCap: null,
          sinks: null,
          scratch: this.#scratch.address,
          scratchBytes,
        });
      }
    }
  }

  shapeOf(plan: StepPlan, numTokens: number): AttentionShape {
    return {
      // Kernels read all sizes at run time.
      key: '',
      layout: () => {},
      fill: () => this.#fill(plan, numTokens),
      start: () => {
        for (const step of this.#steps) step.publish();
      },
      build: () => this.#build(numTokens),
    };
  }

  #fill(plan: StepPlan, numTokens: number): void {
    const { groups, shapes, space } = this.#options;
    for (let g = 0; g < groups.length; g++) {
      const [shape, layout, step] = [shapes[g]!, space.layouts[g]!, this.#steps[g]!];
      const rows = kvRows(plan, space, groups[g]!, g);
      const counts = countStep(shape, rows, numTokens);
      const buffer = step.writable(stepBlockBytes(counts));
      writeStepBlock(buffer, 0, shape, layout.pageBytes, rows, numTokens, counts);
    }
  }

  #build(numTokens: number): Attention {
    const { config, groups, code } = this.#options;
    const groupOf = config.layers.map((_, layer) => groups.findIndex((group) => group.layers.includes(layer)));
    const width = config.numHeads * config.headDim;
    return {
      attend: (g, layer, q, k, v) => {
        const group = groupOf[layer] ?? -1;
        const [kvWrite, attention] = [code.kvWrite[group], code.attention[group]];
        invariant(kvWrite && attention, `layer ${layer} is in no KV group`);
        const node = this.#blocks.address + layer * KV_OP_BYTES;
        const written = custom(g, 'I32', [1], [k, v], kvWrite, node);
        return custom(g, 'F32', [numTokens, width], [q, written], attention, node);
      },
    };
  }

  close(): void {
    for (const step of this.#steps) step.free();
    this.#blocks.free();
    this.#scratch.free();
  }
}

function kvRows(plan: StepPlan, space: KvSpace, group: CacheGroup, g: number): KvRow[] {
  const [memory, tables] = [space.groups[g], plan.groups[g]];
  invariant(memory && tables, `the plan lacks KV group ${group.name}`);
  const rows: KvRow[] = [];
  for (let row = 0; row < plan.numRows; row++) {
    const firstToken = plan.rowStart[row]!;
    const numTokens = plan.rowStart[row + 1]! - firstToken;
    const firstPosition = plan.positions[firstToken]!;
    const from = firstReadPosition(group.kind, firstPosition);
    const segments: KvSegment[] = [];
    forEachSegment(memory, tables, row, from, firstPosition + numTokens, (address, position, count) =>
      segments.push({ address, firstPosition: position, numTokens: count }),
    );
    rows.push({ firstPosition, numTokens, segments });
  }
  return rows;
}
