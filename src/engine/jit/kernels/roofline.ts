// Owns the loops that measure what a core can do at most: read memory, and multiply without reading any.
import type { Assembler } from '../asm/assembler.ts';
import { emitFunction } from '../asm/function.ts';
import { mem } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { type Gpr, rax, type Vec, ymm, zmm } from '../asm/registers.ts';
import type { CpuFeatures, Isa } from '../cpu-features.ts';

/*
 * ggml custom operations whose user data is a block: every thread does the same amount of work.
 *
 *   read:      slices of `sliceBytes`, thread i that at address + i * sliceBytes, `count` times 512 bytes long
 *   products:  `count` turns of 16 independent accumulations, which hides the latency of every known core
 */
const field = { address: 0, sliceBytes: 8, count: 16 } as const;
export const ROOFLINE_BLOCK_BYTES = 64;
export const READ_BYTES_PER_TURN = 512;
const NUM_ACCUMULATORS = 16;

export function writeRooflineBlock(
  buffer: ArrayBuffer,
  byteOffset: number,
  { address, sliceBytes, count }: Readonly<Record<keyof typeof field, number>>,
): void {
  const view = new DataView(buffer, byteOffset, ROOFLINE_BLOCK_BYTES);
  view.setBigInt64(field.address, BigInt(address), true);
  view.setBigInt64(field.sliceBytes, BigInt(sliceBytes), true);
  view.setBigInt64(field.count, BigInt(count), true);
}

/** Runs `turn` as often as the block says. `slice`: the thread's first byte, to be moved on by the turn. */
function emitLoop(
  name: string,
  turn: (a: Assembler, slice: Gpr) => void,
  prepare: (a: Assembler) => void = () => {},
): MachineCode {
  return emitFunction(name, 4, (a, f) => {
    const [dst, ith, nth, block] = f.args as [Gpr, Gpr, Gpr, Gpr];
    f.release(dst, nth);
    const count = f.take(rax);
    a.movsxd(ith, ith);
    a.imul(ith, mem(block, field.sliceBytes));
    a.add(ith, mem(block, field.address));
    a.mov(count, mem(block, field.count));
    prepare(a);
    const again = a.here('turn');
    turn(a, ith);
    a.sub(count, 1);
    a.jne(again);
  });
}

export function emitRead(isa: Isa): MachineCode {
  return emitLoop(`read_${isa}`, (a, slice) => {
    const [register, bytes] = isa === 'avx512' ? [zmm, 64] : [ymm, 32];
    for (let at = 0; at < READ_BYTES_PER_TURN; at += bytes) a.vmovups(register((at / bytes) % 8), mem(slice, at));
    a.add(slice, READ_BYTES_PER_TURN);
  });
}

export type ProductKind = 'int8' | 'bf16' | 'f32';

interface ProductRow {
  /** Multiplications and additions of one accumulation in a register. */
  readonly operations: number;
  readonly register: (id: number) => Vec;
  readonly emit: (a: Assembler, sum: Vec, x: Vec, y: Vec) => void;
}

/** What kernels can use for each kind; undefined: nothing faster than the float32 row. */
function productRow(kind: ProductKind, isa: Isa, cpu: CpuFeatures): ProductRow | undefined {
  const isWide = isa === 'avx512';
  const register = isWide ? zmm : ymm;
  const numFloats = isWide ? 16 : 8;
  switch (kind) {
    case 'int8':
      return isWide && cpu.avx512Vnni
        ? { operations: 8 * numFloats, register, emit: (a, sum, x, y) => a.vpdpbusd(sum, x, y) }
        : { operations: 64, register: ymm, emit: emitAvx2Dot };
    case 'bf16':
      return isWide && cpu.avx512Bf16
        ? { operations: 4 * numFloats, register, emit: (a, sum, x, y) => a.vdpbf16ps(sum, x, y) }
        : undefined;
    case 'f32':
      return { operations: 2 * numFloats, register, emit: (a, sum, x, y) => a.vfmadd231ps(sum, x, y) };
  }
}

/** Bytes to pairs of 16 bits to sums of 32 bits, as the AVX2 products do. */
function emitAvx2Dot(a: Assembler, sum: Vec, x: Vec, y: Vec): void {
  const [pairs, ones] = [ymm(13), ymm(12)];
  a.vpmaddubsw(pairs, x, y);
  a.vpmaddwd(pairs, pairs, ones);
  a.vpaddd(sum, sum, pairs);
}

export interface ProductLoop {
  readonly code: MachineCode;
  readonly operationsPerTurn: number;
}

/** null where the CPU has no instruction for it. */
export function emitProductLoop(kind: ProductKind, isa: Isa, cpu: CpuFeatures): ProductLoop | null {
  const row = productRow(kind, isa, cpu);
  if (row === undefined) return null;
  const { register, operations, emit } = row;
  // Without AVX-512 there are 16 registers: 12 sums, two for the byte products, two operands.
  const isNarrow = register === ymm;
  const numSums = isNarrow ? 12 : NUM_ACCUMULATORS;
  const [x, y] = isNarrow ? [ymm(14), ymm(15)] : [zmm(30), zmm(31)];
  const sums = Array.from({ length: numSums }, (_, id) => register(id));
  // Zeros: no operand makes an addition slow.
  const clear = (a: Assembler) => {
    for (const each of isNarrow ? Array.from({ length: 16 }, (_, id) => ymm(id)) : [...sums, x, y])
      if (isNarrow) a.vpxor(each, each, each);
      else a.vpxord(each, each, each);
  };
  const turn = (a: Assembler) => {
    for (const sum of sums) emit(a, sum, x, y);
  };
  return { code: emitLoop(`${kind}_${isa}`, turn, clear), operationsPerTurn: operations * numSums };
}
