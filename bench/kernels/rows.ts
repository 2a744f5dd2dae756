// Owns the measurement of row kernels: least time of an op on one thread, copy after copy.
// node bench/kernels/rows.ts [avx2|avx512]
import { type Address, koffi } from '../../src/engine/ffi/koffi.ts';
import { allocateNative } from '../../src/engine/ffi/memory.ts';
import { loadCode } from '../../src/engine/jit/asm/exec-memory.ts';
import { emitFunction } from '../../src/engine/jit/asm/function.ts';
import type { MachineCode } from '../../src/engine/jit/asm/program.ts';
import { type Gpr, r12, r13, rbp, rbx, rdi, rdx, rsi } from '../../src/engine/jit/asm/registers.ts';
import { type Isa, supportedIsas } from '../../src/engine/jit/cpu-features.ts';
import { OpBlock, opField, ROWS_BYTES } from '../../src/engine/jit/kernels/op.ts';
import { fineRecord, plainRecord, recordsBytes } from '../../src/engine/jit/kernels/product/abi.ts';
import { type PackedFormat, packedBytes, packedLayout } from '../../src/engine/jit/kernels/product/layout.ts';
import { emitEmbed, embedOp } from '../../src/engine/jit/kernels/rows/embed.ts';
import { emitGate, gateOp } from '../../src/engine/jit/kernels/rows/gate.ts';
import { emitNorm, normOp } from '../../src/engine/jit/kernels/rows/norm.ts';
import { emitQuantise, quantiseOp } from '../../src/engine/jit/kernels/rows/quantise.ts';
import { emitRope, ropeOp } from '../../src/engine/jit/kernels/rows/rope.ts';
import { fillRopeTable } from '../../src/engine/jit/kernels/rows/rope-table.ts';
import { type OpLayout, writeRowOp } from '../../src/engine/jit/kernels/rows/row-op.ts';

const isa = (process.argv[2] ?? supportedIsas()[0]) as Isa;
const loopType = koffi.proto('void xllm_bench_ops(int64_t kernel, int64_t block, int64_t block_bytes, int64_t count)');
type Loop = (kernel: Address, block: Address, blockBytes: number, count: number) => void;

/** Calls a kernel as the only thread, for one op block after the other. */
const loopCode = emitFunction('ops', 4, (a, f) => {
  const [kernel, block, blockBytes, count] = [rbx, rbp, r12, r13].map((register) => f.take(register)) as [
    Gpr,
    Gpr,
    Gpr,
    Gpr,
  ];
  for (const [i, register] of [kernel, block, blockBytes, count].entries()) a.mov(register, f.args[i] as Gpr);
  const loop = a.here('op');
  a.mov(rdi, block);
  a.mov(rsi, 0);
  a.mov(rdx, 1);
  a.callRegister(kernel);
  a.add(block, blockBytes);
  a.sub(count, 1);
  a.jne(loop);
});

/** Least time of one op, us. */
function measure<Name extends string>(
  code: MachineCode,
  layout: OpLayout<Name>,
  numRows: number,
  values: Readonly<Record<Name, Address>>,
): number {
  const numOps = Math.max(1, Math.floor(256 / numRows));
  const loaded = loadCode([loopCode, code]);
  const [loop, kernel] = loaded.addresses as [number, number];
  const blocks = allocateNative(numOps * layout.bytes);
  const rows = allocateNative(ROWS_BYTES);
  new BigInt64Array(rows.buffer)[0] = BigInt(numRows);
  const offsets = Array.from({ length: numOps }, (_, i) => i * layout.bytes);
  for (const offset of offsets) {
    const block = new OpBlock(blocks.buffer, offset, layout.bytes);
    writeRowOp(layout, block, { ...values, rows: rows.address } as Record<Name | 'rows', Address>);
  }
  const counters = new BigInt64Array(blocks.buffer);
  const run = koffi.decode(BigInt(loop), loopType) as Loop;
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 300; i++) {
    for (const offset of offsets) counters[(offset + opField.claimed) / 8] = 0n;
    const start = process.hrtime.bigint();
    run(kernel, blocks.address, layout.bytes, numOps);
    least = Math.min(least, Number(process.hrtime.bigint() - start) / 1000 / numOps);
  }
  for (const memory of [blocks, rows]) memory.free();
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

for (const format of ['F16', 'Q4_1', 'Q8_0', 'Q6_K'] as const satisfies PackedFormat[]) {
  const [V, D] = [4096, 1024];
  const layout = packedLayout(format);
  if (!layout) throw new Error(`${format} is not packed`);
  const [table, out] = [allocateNative(packedBytes(layout, V, D)), allocateNative(256 * D * 4)];
  for (const M of [1, 256]) {
    const tokens = allocateNative(4 * M);
    new Int32Array(tokens.buffer, 0, M).forEach((_, i, all) => (all[i] = (i * 1777) % V));
    const us = measure(emitEmbed({ isa, numFeatures: D, table: layout, scale: 1 }), embedOp, M, {
      tokens: tokens.address,
      sampled: 0,
      sampledBytes: 0,
      table: table.address,
      out: out.address,
      outRowBytes: 4 * D,
    });
    report(`embed ${format} [${M}, ${D}]`, M * D, us);
    tokens.free();
  }
  for (const memory of [table, out]) memory.free();
}
