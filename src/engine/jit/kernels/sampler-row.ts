// Owns what the sampler's passes share: the registers and stack places of one row, walking its chunks, noticing NaN.
import type { Assembler } from '../asm/assembler.ts';
import { type Mem, mem, offset, sized } from '../asm/operands.ts';
import { type Gpr, r8, r9, r12, r13, r14, r15, r32, rax, rbp, rbx, rcx, rdi, rdx, rsi, xmm } from '../asm/registers.ts';
import { resultField, resultFlag } from './sampler-abi.ts';
import { blockSize } from './sampler-math.ts';
import type { Simd } from './sampler-vector.ts';

/** Registers that hold one row's facts throughout. */
export const row: Gpr = rbx;
/** Raw logits [numIds]. */
export const logits: Gpr = rbp;
export const result: Gpr = r12;
/** Scaled logits, padded with -Infinity to whole chunks. */
export const scaled: Gpr = r13;
export const numIds: Gpr = r14;
/** Chunks of 16 that cover the ids. */
export const numChunks: Gpr = r15;

/** Places on the stack, besides. */
export interface RowLocals {
  /** Address of the sample block. */
  readonly block: Mem;
  /** 64 bytes: the last, partly filled chunk of the raw logits, padded with -Infinity. */
  readonly tail: Mem;
  /** Where that chunk begins in the row; 0: the row is whole chunks. */
  readonly tailStart: Mem;
  /** Maxima of the scaled chunks, padded with -Infinity to a multiple of 16. */
  readonly maxima: Mem;
  readonly maximaEnd: Mem;
  /** Room for chunks that can still hold kept tokens, and for their weights. */
  readonly candidates: Mem;
  readonly weights: Mem;
  /** f32: the largest raw logit, and where the block that first holds it begins. */
  readonly rawMax: Mem;
  readonly rawMaxBlock: Mem;
  /** f32: the largest scaled logit; i32: its chunk. */
  readonly scaledMax: Mem;
  readonly scaledMaxChunk: Mem;
}

export interface RowCode {
  readonly a: Assembler;
  readonly simd: Simd;
  readonly at: RowLocals;
}

export const chunkBytes = 64;
const chunksPerBlock = blockSize / 16;

/** Saves the last partly filled chunk to the stack, so that no pass reads past the row. Clobbers rax, rcx, rsi, rdi. */
export function emitTail({ a, simd, at }: RowCode): void {
  const [copy, done] = [a.label('copyTail'), a.label('tailDone')];
  a.mov(sized(at.tailStart, 8), 0);
  a.mov(rcx, numIds);
  a.and(rcx, 15);
  a.je(done);
  a.vmovups(simd.v(0), simd.float(-Infinity));
  for (const part of simd.parts) a.vmovups(offset(at.tail, part * simd.bytes), simd.v(0));
  a.mov(rax, numIds);
  a.sub(rax, rcx);
  a.lea(rsi, mem(logits, 0, { index: rax, scale: 4 }));
  a.mov(at.tailStart, rsi);
  a.lea(rdi, at.tail);
  a.bind(copy);
  a.mov(r32(rax), mem(rsi, -4, { index: rcx, scale: 4 }));
  a.mov(mem(rdi, -4, { index: rcx, scale: 4 }), r32(rax));
  a.dec(rcx);
  a.jne(copy);
  a.bind(done);
}

/** Prepares r8 and r9 for `redirect`. */
export function loadTail({ a, at }: RowCode): void {
  a.lea(r8, at.tail);
  a.mov(r9, at.tailStart);
}

/** Sends a pointer that reached the partly filled chunk to its padded copy. */
export function redirect(a: Assembler, pointer: Gpr): void {
  a.cmp(pointer, r9);
  a.cmove(pointer, r8);
}

/** ecx = min(edx, chunks of a block); edx -= ecx. */
export function takeBlock(a: Assembler): void {
  a.mov(r32(rcx), chunksPerBlock);
  a.cmp(r32(rdx), r32(rcx));
  a.cmovb(r32(rcx), r32(rdx));
  a.sub(r32(rdx), r32(rcx));
}

/** seen = max(seen, 2·bits(x)): above that of +Infinity, a NaN was among them. */
export function watchNaN({ a, simd }: RowCode, seen: number, x: number, temp: number): void {
  a.vpslld(simd.v(temp), simd.v(x), 1);
  a.vpmaxud(simd.v(seen), simd.v(seen), simd.v(temp));
}

export function flagNaN({ a, simd }: RowCode, seen: number, temp: number): void {
  const fine = a.label('noNaN');
  simd.fold(simd.v(seen), simd.v(temp), (dst, x, y) => a.vpmaxud(dst, x, y));
  a.vmovd(r32(rax), xmm(seen));
  a.cmp(r32(rax), 0xff00_0000 | 0);
  a.jbe(fine);
  a.or(sized(mem(result, resultField.flags), 4), resultFlag.sawNaN);
  a.bind(fine);
}
