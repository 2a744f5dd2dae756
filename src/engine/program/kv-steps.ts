// Owns what KV write and attention ops read of each step: the step blocks of the cache groups, and the ops' scratch.
import { invariant } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { KvShape, LayerPages } from '../jit/kernels/abi.ts';
import { attentionScratchBytes } from '../jit/kernels/attention/attention.ts';
import { countStep, type KvRow, type KvSegment, stepBlockBytes, writeStepBlock } from '../jit/kernels/step-block.ts';
import { type CacheGroup, firstReadPosition } from '../kv/cache-group.ts';
import { layerOffset, type PageLayout } from '../kv/layout.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import { forEachSegment } from '../kv/spaces/segments.ts';
import type { ModelConfig } from '../models/config.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import { GrowingBlock } from './growing-block.ts';
import type { StepOrder } from './step-order.ts';

/** What the kernels of each group are emitted for. */
function kvShapes(config: ModelConfig, groups: readonly CacheGroup[], layouts: readonly PageLayout[]): KvShape[] {
  return groups.map(({ name, numKvHeads, keyDim, element }, g) => {
    const layout = layouts[g];
    invariant(layout, `the KV space lacks group ${name}`);
    const { blockTokens } = layout;
    return { numHeads: config.numHeads, numKvHeads, headDim: keyDim, blockTokens, element, hasSoftCap: false };
  });
}

export interface LayerKv {
  readonly group: number;
  readonly shape: KvShape;
  readonly pages: LayerPages;
  /** Positions that a token sees, itself included; null: all. */
  readonly window: number | null;
}

export class KvSteps {
  readonly #groups: readonly CacheGroup[];
  readonly #shapes: readonly KvShape[];
  readonly #space: KvSpace;
  readonly #cells: NativeMemory;
  readonly #scratch: NativeMemory;
  readonly #steps: readonly GrowingBlock[];
  /** For each thread. */
  readonly scratchBytes: number;

  constructor(config: ModelConfig, groups: readonly CacheGroup[], space: KvSpace, numThreads: number) {
    this.#groups = groups;
    this.#space = space;
    this.#shapes = kvShapes(config, groups, space.layouts);
    this.#cells = allocateNative(groups.length * 64);
    this.scratchBytes = Math.max(...this.#shapes.map(attentionScratchBytes));
    this.#scratch = allocateNative(this.scratchBytes * numThreads);
    this.#steps = groups.map((_, g) => new GrowingBlock(this.#cells.buffer, g * 64));
  }

  get scratch(): Address {
    return this.#scratch.address;
  }

  layer(layer: number): LayerKv {
    const group = this.#groups.findIndex(({ layers }) => layers.includes(layer));
    const [cacheGroup, shape, layout] = [this.#groups[group], this.#shapes[group], this.#space.layouts[group]];
    invariant(cacheGroup && shape && layout, `layer ${layer} is in no KV group`);
    const keyOffset = layerOffset(layout, cacheGroup.layers.indexOf(layer));
    return {
      group,
      shape,
      window: cacheGroup.kind.type === 'window' ? cacheGroup.kind.numTokens : null,
      pages: {
        stepCell: this.#cells.address + group * 64,
        keyOffset,
        valueOffset: keyOffset + layout.valueOffset,
        pageBytes: layout.pageBytes,
      },
    };
  }

  /** For the next step; none that uses these blocks may be running. */
  write(plan: StepPlan, order: StepOrder): void {
    for (const [g, group] of this.#groups.entries()) {
      const [shape, layout, step] = [this.#shapes[g]!, this.#space.layouts[g]!, this.#steps[g]!];
      const rows = kvRows(plan, order, this.#space, group, g);
      const counts = countStep(shape, rows);
      const buffer = step.writable(stepBlockBytes(counts));
      writeStepBlock(buffer, 0, shape, layout.pageBytes, rows, counts);
    }
  }

  free(): void {
    for (const step of this.#steps) step.free();
    this.#cells.free();
    this.#scratch.free();
  }
}

function kvRows(plan: StepPlan, { parts }: StepOrder, space: KvSpace, group: CacheGroup, g: number): KvRow[] {
  const [memory, tables] = [space.groups[g], plan.groups[g]];
  invariant(memory && tables, `the plan lacks KV group ${group.name}`);
  return parts.map(({ row, firstToken, numTokens }) => {
    const firstPosition = plan.positions[firstToken]!;
    const from = firstReadPosition(group.kind, firstPosition);
    const segments: KvSegment[] = [];
    forEachSegment(memory, tables, row, from, firstPosition + numTokens, (address, position, count) =>
      segments.push({ address, firstPosition: position, numTokens: count }),
    );
    return { firstPosition, numTokens, segments };
  });
}
