// Owns the measurement of row kernels: least time of an op on one thread, many copies of it in one step program.
// node bench/kernels/rows.ts [avx2|avx512]
import { type Address, koffi } from '../../src/engine/ffi/koffi.ts';
import { allocateNative } from '../../src/engine/ffi/memory.ts';
import { loadCode } from '../../src/engine/jit/asm/exec-memory.ts';
import type { MachineCode } from '../../src/engine/jit/asm/program.ts';
import { type Isa, supportedIsas } from '../../src/engine/jit/cpu-features.ts';
import { OpBlock, opField } from '../../src/engine/jit/kernels/op.ts';
import { fineRecord, plainRecord, recordsBytes } from '../../src/engine/jit/kernels/product/abi.ts';
import { emitProgram, programBytes, writeProgram } from '../../src/engine/jit/kernels/program.ts';
import { emitGate, gateOp } from '../../src/engine/jit/kernels/rows/gate.ts';
import { emitNorm, normOp } from '../../src/engine/jit/kernels/rows/norm.ts';
import { emitQuantise, quantiseOp } from '../../src/engine/jit/kernels/rows/quantise.ts';
import { emitRope, ropeOp } from '../../src/engine/jit/kernels/rows/rope.ts';
import { fillRopeTable } from '../../src/engine/jit/kernels/rows/rope-table.ts';
import { type OpLayout, writeRowOp } from '../../src/engine/jit/kernels/rows/row-op.ts';

const isa = (process.argv[2] ?? supportedIsas()[0]) as Isa;
const programType = koffi.proto('void xllm_bench_program(int64_t dst, int ith, int nth, int64_t program)');
type Program = (dst: Address, ith: number, nth: number, program: Address) => void;

/** Least time of one op, us. */
function measure<Name extends string>(
  code: MachineCode,
  layout: OpLayout<Name>,
  numRows: number,
  values: Readonly<Record<Name, Address>>,
): number {
  const numOps = Math.max(1, Math.floor(256 / numRows));
  const loaded = loadCode([emitProgram(), code]);
  const [program, kernel] = loaded.addresses as [number, number];
  const blocks = allocateNative(numOps * layout.bytes);
  const words = allocateNative(16);
  new BigInt64Array(words.buffer)[1] = BigInt(numRows);
  const table = allocateNative(programBytes(numOps));
  const ops = Array.from({ length: numOps }, (_, i) => {
    const block = new OpBlock(blocks.buffer, i * layout.bytes, layout.bytes);
    writeRowOp(layout, block, { ...values, rows: words.address + 8 } as Record<Name | 'rows', Address>);
    return { kernel, block: blocks.address + i * layout.bytes };
  });
  writeProgram(table.buffer, ops, { abort: words.address, stamps: 0 });
  const counters = new BigInt64Array(blocks.buffer);
  const run = koffi.decode(BigInt(program), programType) as Program;
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 300; i++) {
    for (let op = 0; op < numOps; op++) {
      counters[(op * layout.bytes + opField.claimed) / 8] = 0n;
      counters[(op * layout.bytes + opField.finished) / 8] = 0n;
    }
    const start = process.hrtime.bigint();
    run(0, 0, 1, table.address);
    least = Math.min(least, Number(process.hrtime.bigint() - start) / 1000 / numOps);
  }
  for (const memory of [blocks, words, table]) memory.free();
  loaded.free();
  return least;
}

function floats(count: number) {
  const memory = allocateNative(4 * count);
  new Float32Array(memory.buffer).forEach((_, i, all) => (all[i] = Math.sin(i) * 3));
  return memory;
}

function report(name: string, numFloats: number, us: number): void {
  const rate = (numFloats / us / 1000).toFixed(2);
  console.log(`${name.padEnd(44)} ${us.toFixed(3).padStart(9)} us ${rate.padStart(7)} floats/ns`);
}

for (const [M, D] of [
  [1, 576],
  [1, 1024],
  [1, 2048],
  [16, 1024],
  [512, 576],
  [512, 1024],
] as const) {
  const [x, weight, out] = [floats(M * D), floats(D), floats(M * D)];
  for (const record of [plainRecord, fineRecord, null]) {
    const records = allocateNative(recordsBytes(record ?? plainRecord, M, D));
    const values = { x: x.address, xRowBytes: 4 * D, records: records.address };
    const code = emitNorm({ isa, kind: 'rms', numFeatures: D, eps: 1e-5, record, floats: record ? 'none' : 'written' });
    const norm = { ...values, weight: weight.address, bias: 0, out: out.address, outRowBytes: 4 * D };
    const name = record === null ? 'floats' : record.isFine ? 'fine records' : 'records';
    report(`norm ${name} [${M}, ${D}]`, M * D, measure(code, normOp, M, norm));
    if (record) {
      const quantise = emitQuantise({ isa, numFeatures: D, record });
      report(`quantise ${name} [${M}, ${D}]`, M * D, measure(quantise, quantiseOp, M, values));
    }
    records.free();
  }
  for (const memory of [x, weight, out]) memory.free();
}

for (const [M, F] of [
  [1, 1536],
  [1, 3072],
  [512, 1536],
] as const) {
  const [x, out] = [floats(2 * M * F), allocateNative(recordsBytes(plainRecord, M, F))];
  const values = { gate: x.address, gateRowBytes: 8 * F, up: x.address + 4 * F, upRowBytes: 8 * F };
  for (const activation of ['silu', 'gelu_tanh'] as const) {
    const code = emitGate({ isa, activation, numFeatures: F, record: plainRecord });
    const us = measure(code, gateOp, M, { ...values, out: out.address, outRowBytes: 0 });
    report(`${activation} records [${M}, 2*${F}]`, M * F, us);
  }
  x.free();
  out.free();
}

for (const [M, H, G, K] of [
  [1, 9, 3, 64],
  [1, 16, 8, 128],
  [512, 9, 3, 64],
  [512, 16, 8, 128],
] as const) {
  const width = (H + 2 * G) * K;
  const [qkv, table, positions, norm] = [floats(M * width), floats(M * K), allocateNative(4 * M), floats(K)];
  const frequencies = { base: 10_000, rotaryDim: K, frequencyFactors: null, attnFactor: 1 };
  fillRopeTable(new Float32Array(table.buffer), 0, M, frequencies);
  new Int32Array(positions.buffer).forEach((_, i, all) => (all[i] = i % M));
  for (const pairs of ['adjacent', 'halves'] as const) {
    for (const headNormEps of [null, 1e-6]) {
      const code = emitRope({ isa, numHeads: H, numKvHeads: G, headDim: K, rotaryDim: K, pairs, headNormEps });
      const us = measure(code, ropeOp, M, {
        q: qkv.address,
        qRowBytes: 4 * width,
        k: qkv.address + 4 * H * K,
        kRowBytes: 4 * width,
        positions: positions.address,
        table: table.address,
        qNorm: norm.address,
        kNorm: norm.address,
      });
      report(`rope ${pairs}${headNormEps ? ' with norms' : ''} [${M}, (${H}+${G})*${K}]`, M * (H + G) * K, us);
    }
  }
  for (const memory of [qkv, table, positions, norm]) memory.free();
}
