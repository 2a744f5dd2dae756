// Owns the rotation tables of a model: a row per position, written by the host before the first step that reads it.
import { invariant } from '../../common/errors.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { Address } from '../ffi/koffi.ts';
import { fillRopeTable, type RopeFrequencies, ropeRowBytes } from '../jit/kernels/rows/rope-table.ts';
import type { ModelConfig, RopeConfig } from '../models/config.ts';
import { ropeFactors } from '../models/rope-scaling.ts';
import type { StepPlan } from '../scheduler/plan.ts';

/** Positions written at a time. */
const CHUNK_POSITIONS = 512;

interface Table {
  readonly frequencies: RopeFrequencies;
  readonly memory: NativeMemory;
  readonly floats: Float32Array;
}

export class RopeTables {
  readonly #tables = new Map<RopeConfig, Table>();
  readonly #maxPositions: number;
  /** Positions that have rows. */
  #numPositions = 0;

  constructor({ layers, headDim }: ModelConfig, maxPositions: number) {
    this.#maxPositions = maxPositions;
    for (const { rope } of layers) {
      if (this.#tables.has(rope)) continue;
      const frequencies = { base: rope.base, rotaryDim: headDim, ...ropeFactors(rope.scaling, rope.base, headDim) };
      const memory = allocateNative(maxPositions * ropeRowBytes(headDim));
      this.#tables.set(rope, { frequencies, memory, floats: new Float32Array(memory.buffer) });
    }
  }

  addressOf(rope: RopeConfig): Address {
    const table = this.#tables.get(rope);
    invariant(table, 'a rope of no layer');
    return table.memory.address;
  }

  /** Writes rows that the plan is the first to need: a running step does not read them. */
  ensure({ positions }: StepPlan): void {
    let last = 0;
    for (const position of positions) if (position > last) last = position;
    if (last < this.#numPositions) return;
    const end = Math.min(this.#maxPositions, Math.ceil((last + 1) / CHUNK_POSITIONS) * CHUNK_POSITIONS);
    for (const { floats, frequencies } of this.#tables.values()) {
      fillRopeTable(floats, this.#numPositions, end, frequencies);
    }
    this.#numPositions = end;
  }

  free(): void {
    for (const { memory } of this.#tables.values()) memory.free();
  }
}
