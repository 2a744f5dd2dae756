// Owns what one measurement of a kernel is: its name, its work, and how to set it up beside ggml.
import type { NativeMemory } from '../../../engine/ffi/memory.ts';
import type { MachineCode } from '../../../engine/jit/asm/program.ts';
import type { Isa } from '../../../engine/jit/cpu-features.ts';
import type { Activations, Rows } from '../../../engine/program/activations.ts';
import type { OpSpec } from '../../../engine/program/program-builder.ts';
import type { Graph } from '../../../engine/tensor/graph.ts';

/** Arithmetic of a kernel, and where what it reads lies. */
export interface Work {
  /** A multiplication and an addition are two. */
  readonly operations: number;
  readonly arithmetic: 'int8' | 'f32';
  /** Instructions do so many of them for one that counts: 2 where activations are in two parts. */
  readonly operationsPerOperation: number;
  /** That must be read, and for row kernels written. */
  readonly bytes: number;
  readonly bytesIn: 'memory' | 'cache';
}

export interface KernelCase {
  readonly kernel: string;
  readonly model: string;
  readonly shape: string;
  /** Rows of activations, or tokens. */
  readonly rows: number;
  readonly work: Work;
  emit(isa: Isa): MachineCode;
  /** Ops of this kernel alone, of equal work, over memory that together is as large as `work.bytesIn` says. */
  ops(place: Workplace): OpSpec[];
  /** null: ggml has no such thing. */
  readonly ggml: GgmlWork | null;
}

/** The same work as a graph of ggml. */
export interface GgmlWork {
  /** How often the graph does it. */
  readonly times: number;
  /** Adds what all times share; what it returns adds the nodes of one. Together at most MAX_TENSORS for each time. */
  readonly start: (graph: Graph, place: Workplace) => (time: number) => void;
}
export const MAX_TENSORS = 10;

/** What cases are set up in. */
export interface Workplace {
  readonly isa: Isa;
  readonly numThreads: number;
  /** Moderate numbers in every format of weights and of cached elements; larger than the caches. */
  readonly data: NativeMemory;
  /** Freed with the case. */
  readonly memory: Activations;
  /** Address of the two i64 that tell an op its rows. */
  readonly rows: number;
}

/** Bytes that one run goes through where the caches are not to help. */
export const WORKING_SET_BYTES = 96 * 2 ** 20;
export const DATA_BYTES = 4 * WORKING_SET_BYTES;

/** Ops of a run on M rows that are in the caches, as they are in a step. */
export const numRowOps = (M: number): number => Math.max(8, Math.min(1024, Math.floor(4096 / M)));

const LINE_BYTES = 64;

/** F32 rows as far apart as a program's (`buffers.ts`). */
export const floatRowBytes = (width: number): number => (Math.ceil((4 * width) / LINE_BYTES) | 1) * LINE_BYTES;

/** F32 rows of small numbers. */
export function floatRows(memory: Activations, numRows: number, width: number): Rows {
  const rowBytes = floatRowBytes(width);
  const { address, buffer } = memory.memory(numRows * rowBytes);
  new Float32Array(buffer).forEach((_, i, all) => (all[i] = Math.sin(i)));
  return { address, rowBytes };
}

/** Random bytes whose 16-bit words are all moderate as F16 numbers. */
export function fillWithNumbers({ buffer, numBytes }: NativeMemory): void {
  const words = new Uint16Array(buffer, 0, 2 ** 20);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = (state >>> 16) & 0xbaff;
  }
  const bytes = new Uint8Array(buffer);
  for (let filled = words.byteLength; filled < numBytes; filled *= 2) bytes.copyWithin(filled, 0, filled);
}
