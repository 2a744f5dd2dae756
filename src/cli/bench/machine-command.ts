// Owns `xllm bench machine`: the measured roofline of this machine, as a table and as JSON.
import { writeFileSync } from 'node:fs';
import { XllmError } from '../../common/errors.ts';
import { canExecute } from '../../engine/jit/asm/exec-memory.ts';
import type { BenchIo } from './io.ts';
import { describeMachine, readCpuinfo, sourceCommit } from './machine.ts';
import type { BenchMachineOptions } from './machine-options.ts';
import { measureRoofline } from './roofline.ts';
import { formatTable } from './table.ts';

/** Throws XllmError `native_unavailable` where no code can be emitted. */
export function benchMachine({ threads, json }: BenchMachineOptions, io: BenchIo): void {
  const numThreads = threads === 1 ? [1] : [1, threads];
  const rooflines = numThreads.map((count) => {
    const roofline = measureRoofline(count);
    if (roofline === null) {
      const probe = canExecute();
      const reason = probe.ok ? 'this CPU has no AVX2' : probe.reason;
      throw new XllmError('native_unavailable', `the roofline is measured by emitted code: ${reason}`);
    }
    return roofline;
  });
  const machine = describeMachine(readCpuinfo());
  io.stdout.write(`${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB\n`);
  const header = ['threads', 'memory read GB/s', 'int8 GOPS', 'bf16 GFLOPS', 'f32 GFLOPS'];
  const rows = rooflines.map((one) => [one.threads, one.memoryReadGBs, one.int8Gops, one.bf16Gflops, one.f32Gflops]);
  io.stdout.write(formatTable(header, rows, io.stdout.isTTY === true));
  const result = { kind: 'machine', date: new Date().toISOString(), commit: sourceCommit(), machine, rooflines };
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(result, null, 2)}\n`);
}
