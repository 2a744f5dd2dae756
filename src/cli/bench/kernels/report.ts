// Owns what a kernel's time means: its rates, which bound it meets, and how near it comes. Pure.
import { type Cell, formatTable } from '../table.ts';
import type { KernelCase, Work } from './case.ts';
import type { Measured } from './measure.ts';

/** What the machine does at most, all threads together. */
export interface Peaks {
  readonly int8Gops: number;
  readonly f32Gflops: number;
  readonly memoryReadGBs: number;
  readonly cacheReadGBs: number;
}

export type Bound = 'int8' | 'f32' | 'memory' | 'cache';

export interface KernelFigures {
  readonly kernel: string;
  readonly model: string;
  readonly shape: string;
  readonly rows: number;
  readonly us: number;
  /** null: it does no arithmetic to speak of. */
  readonly gops: number | null;
  readonly gbPerS: number;
  /** Which of arithmetic and reading would take longer at the peaks. */
  readonly bound: Bound;
  /** Of the time, what the bound alone would take. */
  readonly share: number;
  readonly ggmlUs: number | null;
  /** ggml's time over ours. */
  readonly ratio: number | null;
}

export function figuresOf(
  { kernel, model, shape, rows, work }: KernelCase,
  measured: Measured,
  peaks: Peaks,
): KernelFigures {
  const { us, ggmlUs } = measured;
  const { bound, us: boundUs } = boundOf(work, peaks);
  return {
    kernel,
    model,
    shape,
    rows,
    us,
    gops: work.operations > 0 ? work.operations / us / 1000 : null,
    gbPerS: work.bytes / us / 1000,
    bound,
    share: boundUs / us,
    ggmlUs,
    ratio: ggmlUs === null ? null : ggmlUs / us,
  };
}

function boundOf(work: Work, peaks: Peaks): { readonly bound: Bound; readonly us: number } {
  const { operations, operationsPerOperation, arithmetic, bytes, bytesIn } = work;
  const gops = arithmetic === 'int8' ? peaks.int8Gops : peaks.f32Gflops;
  const gbPerS = bytesIn === 'memory' ? peaks.memoryReadGBs : peaks.cacheReadGBs;
  const arithmeticUs = (operations * operationsPerOperation) / gops / 1000;
  const bytesUs = bytes / gbPerS / 1000;
  return arithmeticUs > bytesUs ? { bound: arithmetic, us: arithmeticUs } : { bound: bytesIn, us: bytesUs };
}

/** The faster of both: a measurement that was disturbed says too little. */
export const bestPeaks = (a: Peaks, b: Peaks): Peaks => ({
  int8Gops: Math.max(a.int8Gops, b.int8Gops),
  f32Gflops: Math.max(a.f32Gflops, b.f32Gflops),
  memoryReadGBs: Math.max(a.memoryReadGBs, b.memoryReadGBs),
  cacheReadGBs: Math.max(a.cacheReadGBs, b.cacheReadGBs),
});

export const describePeaks = ({ int8Gops, f32Gflops, memoryReadGBs, cacheReadGBs }: Peaks): string =>
  [
    `${int8Gops.toFixed(0)} int8 GOPS`,
    `${f32Gflops.toFixed(0)} f32 GFLOPS`,
    `${memoryReadGBs.toFixed(1)} GB/s from memory`,
    `${cacheReadGBs.toFixed(0)} GB/s from the caches`,
  ].join(', ');

const header = ['kernel', 'model', 'shape', 'rows', 'us', 'GOPS', 'GB/s', '% of', 'bound', 'ggml us', 'ratio'];

export function kernelTable(figures: readonly KernelFigures[], isStyled: boolean): string {
  const rows = figures.map((one): Cell[] => [
    one.kernel,
    one.model,
    one.shape,
    one.rows,
    one.us,
    one.gops,
    one.gbPerS,
    Math.round(100 * one.share),
    one.bound,
    one.ggmlUs,
    one.ratio,
  ]);
  return formatTable(header, rows, isStyled);
}
