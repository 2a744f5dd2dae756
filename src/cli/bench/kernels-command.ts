// Owns `xllm bench kernels`: what each emitted kernel reaches, beside the measured roofline and ggml.
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { XllmError } from '../../common/errors.ts';
import { openGgml } from '../../engine/ffi/ggml.ts';
import { listing } from '../../engine/jit/asm/text.ts';
import type { Isa } from '../../engine/jit/cpu-features.ts';
import { chooseKernels } from '../../engine/step/kernel-choice.ts';
import type { BenchIo } from './io.ts';
import { kvCases } from './kernels/attention.ts';
import { cacheReadCase } from './kernels/cache-read.ts';
import type { KernelCase } from './kernels/case.ts';
import { type Measured, Measurer } from './kernels/measure.ts';
import { type MeasuredModel, measuredModels } from './kernels/models.ts';
import { productCases } from './kernels/products.ts';
import { bestPeaks, describePeaks, figuresOf, kernelTable, type Peaks } from './kernels/report.ts';
import { rowCases } from './kernels/rows.ts';
import type { BenchKernelsOptions } from './kernels-options.ts';
import { describeMachine, readCpuinfo, sourceCommit } from './machine.ts';
import { measureRoofline } from './roofline.ts';

export const casesOf = (models: readonly MeasuredModel[], rows: readonly number[]): KernelCase[] => [
  ...productCases(models, rows),
  ...kvCases(models),
  ...rowCases(models, rows),
];

/** Throws XllmError: `native_unavailable` where no code can be emitted, `usage` where nothing is left to measure. */
export async function benchKernels(options: BenchKernelsOptions, io: BenchIo): Promise<void> {
  if (options.listing !== undefined) {
    io.stdout.write(`${listingOf(options.listing)}\n`);
    return;
  }
  const cases = casesOf(measuredModels, options.rows).filter((each) => isWanted(each, options.only));
  if (cases.length === 0) throw new XllmError('usage', `no kernel's line has ${options.only.join(' or ')} in it`);
  const isa = isaOf(options.kernels);
  const numThreads = options.threads ?? availableParallelism();
  const ggml = options.ggml ? openGgml() : null;
  using measurer = new Measurer({ isa, numThreads, ggml, rounds: options.rounds });
  const before = measurePeaks(measurer, numThreads);
  const measured: (readonly [KernelCase, Measured])[] = [];
  for (const [i, each] of cases.entries()) {
    showProgress(io, `${i + 1} of ${cases.length}: ${lineOf(each)}`);
    measured.push([each, measurer.measure(each)]);
    // Measuring keeps the event loop busy: Ctrl-C is heard in between.
    await nextTurn();
    if (io.signal.aborted) break;
  }
  showProgress(io, '');
  const peaks = bestPeaks(before, measurePeaks(measurer, numThreads));
  const figures = measured.map(([each, times]) => figuresOf(each, times, peaks));
  const machine = describeMachine(readCpuinfo());
  const ggmlName = ggml && `${ggml.version} (${ggml.variant})`;
  io.stdout.write(`${machine.cpu}, ${numThreads} threads, ${isa}: ${describePeaks(peaks)}; ggml ${ggmlName ?? '-'}\n`);
  io.stdout.write(kernelTable(figures, io.stdout.isTTY === true));
  if (options.json === undefined) return;
  const result = { kind: 'kernels', date: new Date().toISOString(), commit: sourceCommit(), machine };
  const of = { isa, threads: numThreads, rounds: options.rounds, ggml: ggmlName };
  writeFileSync(options.json, `${JSON.stringify({ ...result, ...of, peaks, figures }, null, 2)}\n`);
}

/** On a terminal the line is written over. */
function showProgress({ stderr }: BenchIo, text: string): void {
  if (stderr.isTTY) stderr.write(`\r\x1b[K${text}`);
  else if (text !== '') stderr.write(`${text}\n`);
}

function isaOf(wanted: BenchKernelsOptions['kernels']): Isa {
  const { kernels, reason } = chooseKernels(wanted, null);
  if (kernels === 'ggml') throw new XllmError('native_unavailable', `no kernels can be emitted: ${reason}`);
  return kernels;
}

const lineOf = ({ kernel, model, shape, rows }: KernelCase) => `${kernel} ${model} ${shape} ${rows}`;

function isWanted(each: KernelCase, only: readonly string[]): boolean {
  const line = lineOf(each).toLowerCase();
  return only.length === 0 || only.some((text) => line.includes(text.toLowerCase()));
}

function measurePeaks(measurer: Measurer, numThreads: number): Peaks {
  const roofline = measureRoofline(numThreads);
  if (!roofline) throw new XllmError('native_unavailable', 'the roofline is measured by emitted code');
  const { int8Gops, f32Gflops, memoryReadGBs } = roofline;
  const cache = cacheReadCase(numThreads);
  return { int8Gops, f32Gflops, memoryReadGBs, cacheReadGBs: cache.work.bytes / measurer.measure(cache).us / 1000 };
}

/** Throws XllmError `usage` for a name that no measured kernel has. */
function listingOf(name: string): string {
  const names = new Set<string>();
  for (const isa of ['avx512', 'avx2'] as const) {
    if (!name.endsWith(isa)) continue;
    for (const each of casesOf(measuredModels, [1])) {
      const code = each.emit(isa);
      if (code.name === name) return listing(code);
      names.add(code.name);
    }
  }
  const known = names.size > 0 ? [...names].join(', ') : 'names end in avx512 or avx2';
  throw new XllmError('usage', `there is no kernel ${name}: ${known}`);
}
