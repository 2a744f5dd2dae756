// Owns the sampler's passes over a whole row: maxima, scaling and edits, log-sum-exp, rank, and finding a value's place.
import type { Assembler } from '../asm/assembler.ts';
import { type Mem, mem, offset, sized } from '../asm/operands.ts';
import {
  type Gpr,
  r8,
  r9,
  r10,
  r12,
  r13,
  r14,
  r15,
  r32,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  xmm,
} from '../asm/registers.ts';
import { editBytes, editField, resultField, resultFlag, rowField } from './sampler-abi.ts';
import { blockSize, maxFloat } from './sampler-math.ts';
import { compare, type Simd } from './sampler-vector.ts';

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

const chunkBytes = 64;
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
function loadTail({ a, at }: RowCode): void {
  a.lea(r8, at.tail);
  a.mov(r9, at.tailStart);
}

/** Sends a pointer that reached the partly filled chunk to its padded copy. */
function redirect(a: Assembler, pointer: Gpr): void {
  a.cmp(pointer, r9);
  a.cmove(pointer, r8);
}

/** ecx = min(edx, chunks of a block); edx -= ecx. */
function takeBlock(a: Assembler): void {
  a.mov(r32(rcx), chunksPerBlock);
  a.cmp(r32(rdx), r32(rcx));
  a.cmovb(r32(rcx), r32(rdx));
  a.sub(r32(rdx), r32(rcx));
}

/** seen = max(seen, 2·bits(x)): above that of +Infinity, a NaN was among them. */
function watchNaN({ a, simd }: RowCode, seen: number, x: number, temp: number): void {
  a.vpslld(simd.v(temp), simd.v(x), 1);
  a.vpmaxud(simd.v(seen), simd.v(seen), simd.v(temp));
}

function flagNaN({ a, simd }: RowCode, seen: number, temp: number): void {
  const fine = a.label('noNaN');
  simd.fold(simd.v(seen), simd.v(temp), (dst, x, y) => a.vpmaxud(dst, x, y));
  a.vmovd(r32(rax), xmm(seen));
  a.cmp(r32(rax), 0xff00_0000 | 0);
  a.jbe(fine);
  a.or(sized(mem(result, resultField.flags), 4), resultFlag.sawNaN);
  a.bind(fine);
}

/** Block maxima of the raw logits into the result, the largest into locals. Clobbers rax, rcx, rdx, rsi, rdi, r8-r10. */
export function emitRawMaxima(code: RowCode): void {
  const { a, simd, at } = code;
  const [seenNaN, best, temp] = [9, 8, 7];
  const worse = a.label('notLarger');
  a.vmovss(xmm(best), a.f32(-Infinity));
  simd.zero(simd.v(seenNaN));
  loadTail(code);
  a.mov(rsi, logits);
  a.mov(r10, logits);
  a.lea(rdi, mem(result, resultField.blockMaxima));
  a.mov(rdx, numChunks);
  const block = a.here('block');
  takeBlock(a);
  a.mov(rax, rsi);
  for (const part of simd.parts) a.vmovups(simd.v(part), simd.float(-Infinity));
  const chunk = a.here('chunk');
  redirect(a, rsi);
  for (const part of simd.parts) {
    const x = 4 + part;
    a.vmovups(simd.v(x), mem(rsi, part * simd.bytes));
    watchNaN(code, seenNaN, x, temp);
    a.vmaxps(simd.v(part), simd.v(x), simd.v(part));
  }
  a.add(rsi, chunkBytes);
  a.dec(r32(rcx));
  a.jne(chunk);
  for (const part of simd.parts.slice(1)) a.vmaxps(simd.v(0), simd.v(0), simd.v(part));
  simd.foldMax(simd.v(0), simd.v(temp));
  a.vminss(xmm(0), xmm(0), a.f32(maxFloat));
  a.vmovss(mem(rdi), xmm(0));
  a.add(rdi, 4);
  a.vucomiss(xmm(0), xmm(best));
  a.jbe(worse);
  a.vmovaps(xmm(best), xmm(0));
  a.mov(r10, rax);
  a.bind(worse);
  a.test(r32(rdx), r32(rdx));
  a.jne(block);
  a.vmovss(at.rawMax, xmm(best));
  a.mov(at.rawMaxBlock, r10);
  flagNaN(code, seenNaN, temp);
}

/** eax = lowest id with the largest raw logit, which must not be -Infinity. Clobbers rcx, rsi, r8, r9. */
export function emitFindRawMax(code: RowCode): void {
  const { a, simd, at } = code;
  const found = simd.parts.map(() => a.label('found'));
  a.vbroadcastss(simd.v(0), at.rawMax);
  loadTail(code);
  a.mov(rsi, at.rawMaxBlock);
  a.mov(rcx, rsi);
  a.sub(rcx, logits);
  a.shr(rcx, 2);
  const chunk = a.here('findRaw');
  redirect(a, rsi);
  for (const part of simd.parts) {
    a.vmovups(simd.v(1), mem(rsi, part * simd.bytes));
    simd.sane(simd.v(1));
    simd.bits(rax, compare.eq, simd.v(1), simd.v(0), simd.v(2));
    a.test(r32(rax), r32(rax));
    a.jne(found[part]!);
    if (part < simd.parts.length - 1) a.add(rcx, simd.lanes);
  }
  a.add(rsi, chunkBytes);
  a.add(rcx, simd.lanes);
  a.jmp(chunk);
  for (const label of found) a.bind(label);
  a.tzcnt(r32(rax), r32(rax));
  a.add(r32(rax), r32(rcx));
}

/** Scaled logits, their chunks' maxima, the edits, the largest. Clobbers rax, rcx, rdx, rsi, rdi, r8, r9. */
export function emitScale(code: RowCode): void {
  const { a, simd, at } = code;
  const [factor, seenNaN, temp] = [8, 9, 7];
  a.vbroadcastss(simd.v(factor), mem(row, rowField.inverseTemperature));
  simd.zero(simd.v(seenNaN));
  loadTail(code);
  a.mov(rsi, logits);
  a.mov(rdi, scaled);
  a.mov(rdx, at.maxima);
  a.mov(rcx, numChunks);
  const chunk = a.here('scaleChunk');
  redirect(a, rsi);
  for (const part of simd.parts) {
    const x = simd.v(part);
    a.vmovups(x, mem(rsi, part * simd.bytes));
    watchNaN(code, seenNaN, part, temp);
    a.vmulps(x, x, simd.v(factor));
    simd.sane(x);
    a.vmovups(mem(rdi, part * simd.bytes), x);
  }
  storeChunkMax(code, mem(rdx), temp);
  a.add(rsi, chunkBytes);
  a.add(rdi, chunkBytes);
  a.add(rdx, 4);
  a.dec(rcx);
  a.jne(chunk);
  padMaxima(code);
  flagNaN(code, seenNaN, temp);
  emitEdits(code);
  emitScaledMax(code);
}

/** Stores the maximum of v0 (and v1). Clobbers `temp`. */
function storeChunkMax({ a, simd }: RowCode, place: Mem, temp: number): void {
  for (const part of simd.parts.slice(1)) a.vmaxps(simd.v(0), simd.v(0), simd.v(part));
  simd.foldMax(simd.v(0), simd.v(temp));
  a.vmovss(place, xmm(0));
}

/** Fills up with -Infinity from rdx to the next multiple of 16 maxima. */
function padMaxima({ a, at }: RowCode): void {
  const done = a.label('padded');
  a.vmovss(xmm(0), a.f32(-Infinity));
  const more = a.here('pad');
  a.mov(rax, rdx);
  a.and(rax, 63);
  a.je(done);
  a.vmovss(mem(rdx), xmm(0));
  a.add(rdx, 4);
  a.jmp(more);
  a.bind(done);
  a.mov(at.maximaEnd, rdx);
}

/** Patches the scaled logits of edited ids, from their raw ones, and the maxima of their chunks. */
function emitEdits(code: RowCode): void {
  const { a, simd, at } = code;
  const [done, negative] = [a.label('edited'), a.label('scaleNegative')];
  a.mov(r32(rcx), mem(row, rowField.numEdits));
  a.test(r32(rcx), r32(rcx));
  a.je(done);
  a.mov(rsi, at.block);
  a.add(rsi, mem(row, rowField.edits));
  a.mov(rdx, at.maxima);
  const edit = a.here('edit');
  a.mov(r32(rax), mem(rsi, editField.tokenId));
  a.vmovss(xmm(0), mem(logits, 0, { index: rax, scale: 4 }));
  a.vxorps(xmm(1), xmm(1), xmm(1));
  a.vmovss(xmm(2), mem(rsi, editField.scaleNegative));
  a.vucomiss(xmm(0), xmm(1));
  a.jbe(negative);
  a.vmovss(xmm(2), mem(rsi, editField.scalePositive));
  a.bind(negative);
  a.vmulss(xmm(0), xmm(0), xmm(2));
  a.vaddss(xmm(0), xmm(0), mem(rsi, editField.add));
  a.vmulss(xmm(0), xmm(0), mem(row, rowField.inverseTemperature));
  a.vmaxss(xmm(0), xmm(0), a.f32(-Infinity));
  a.vminss(xmm(0), xmm(0), a.f32(maxFloat));
  a.vmovss(mem(scaled, 0, { index: rax, scale: 4 }), xmm(0));
  a.mov(r32(rdi), r32(rax));
  a.and(r32(rdi), -16);
  for (const part of simd.parts) a.vmovups(simd.v(part), mem(scaled, part * simd.bytes, { index: rdi, scale: 4 }));
  a.shr(r32(rax), 4);
  storeChunkMax(code, mem(rdx, 0, { index: rax, scale: 4 }), 7);
  a.add(rsi, editBytes);
  a.dec(r32(rcx));
  a.jne(edit);
  a.bind(done);
}

/** The largest scaled logit and the first chunk that holds it (if it is not -Infinity). */
function emitScaledMax(code: RowCode): void {
  const { a, simd, at } = code;
  const nothing = a.label('allForbidden');
  a.mov(rsi, at.maxima);
  a.mov(rdx, at.maximaEnd);
  a.vmovups(simd.v(0), simd.float(-Infinity));
  const step = a.here('maxOfMaxima');
  a.vmaxps(simd.v(0), simd.v(0), mem(rsi));
  a.add(rsi, simd.bytes);
  a.cmp(rsi, rdx);
  a.jb(step);
  simd.foldMax(simd.v(0), simd.v(1));
  a.vmovss(at.scaledMax, xmm(0));
  a.vucomiss(xmm(0), a.f32(-Infinity));
  a.je(nothing);
  a.mov(rsi, at.maxima);
  emitFind(code, at.scaledMax);
  a.mov(at.scaledMaxChunk, rax);
  a.bind(nothing);
}

/** rax = index from rsi of the first float equal to `value`, which must be there. Clobbers rcx, rsi. */
function emitFind({ a, simd }: RowCode, value: Mem): void {
  const found = a.label('foundEqual');
  a.vbroadcastss(simd.v(0), value);
  a.mov(r32(rcx), -simd.lanes);
  const step = a.here('findEqual');
  a.add(r32(rcx), simd.lanes);
  simd.bits(rax, compare.eq, simd.v(0), mem(rsi, 0, { index: rcx, scale: 4 }), simd.v(1));
  a.test(r32(rax), r32(rax));
  a.je(step);
  a.bind(found);
  a.tzcnt(r32(rax), r32(rax));
  a.add(r32(rax), r32(rcx));
}

/** eax = lowest id with the largest scaled logit. Clobbers rcx, rdx, rsi. */
export function emitFindScaledMax(code: RowCode): void {
  const { a, at } = code;
  a.mov(rdx, at.scaledMaxChunk);
  a.shl(rdx, 4);
  a.lea(rsi, mem(scaled, 0, { index: rdx, scale: 4 }));
  emitFind(code, at.scaledMax);
  a.add(r32(rax), r32(rdx));
}

/** Log-sum-exp of the raw logits, and the result token's log-probability and rank. Clobbers as emitRawMaxima. */
export function emitStats(code: RowCode): void {
  const { a, simd, at } = code;
  const empty = a.label('noMass');
  const [max, own] = [12, 13];
  a.vmovss(xmm(0), at.rawMax);
  a.vucomiss(xmm(0), a.f32(-Infinity));
  a.je(empty);
  a.vbroadcastss(simd.v(max), at.rawMax);
  emitSumExp(code, max);
  a.vbroadcastss(simd.v(0), xmm(0));
  simd.ln(simd.v(0), [simd.v(1), simd.v(2), simd.v(3), simd.v(4)]);
  a.vaddss(xmm(0), xmm(0), at.rawMax);
  a.bind(empty);
  a.vmovss(mem(result, resultField.logSumExp), xmm(0));

  a.mov(r32(rax), mem(result, resultField.tokenId));
  a.vbroadcastss(simd.v(own), mem(logits, 0, { index: rax, scale: 4 }));
  simd.sane(simd.v(own));
  a.vsubss(xmm(0), xmm(own), xmm(0));
  a.vmaxss(xmm(0), xmm(0), a.f32(-Infinity));
  a.vmovss(mem(result, resultField.logprob), xmm(0));
  emitRank(code, own);
}

/** xmm0 = Σ exp(logit - max): each block over 16 lanes, the blocks added lane by lane, then folded. */
function emitSumExp(code: RowCode, max: number): void {
  const { a, simd } = code;
  const [block, total] = [8, 10];
  for (const part of simd.parts) simd.zero(simd.v(total + part));
  loadTail(code);
  a.mov(rsi, logits);
  a.mov(rdx, numChunks);
  const nextBlock = a.here('expBlock');
  takeBlock(a);
  for (const part of simd.parts) simd.zero(simd.v(block + part));
  const chunk = a.here('expChunk');
  redirect(a, rsi);
  for (const part of simd.parts) {
    const base = 4 * part;
    const x = simd.v(base);
    a.vmovups(x, mem(rsi, part * simd.bytes));
    simd.sane(x);
    a.vsubps(x, x, simd.v(max));
    simd.exp(x, [simd.v(base + 1), simd.v(base + 2), simd.v(base + 3)]);
    a.vaddps(simd.v(block + part), simd.v(block + part), x);
  }
  a.add(rsi, chunkBytes);
  a.dec(r32(rcx));
  a.jne(chunk);
  for (const part of simd.parts) a.vaddps(simd.v(total + part), simd.v(total + part), simd.v(block + part));
  a.test(r32(rdx), r32(rdx));
  a.jne(nextBlock);
  const sums = simd.parts.map((part) => simd.v(total + part));
  simd.foldSum(sums, simd.v(0));
  a.vmovaps(xmm(0), xmm(total));
}

function emitRank(code: RowCode, own: number): void {
  const { a, simd } = code;
  loadTail(code);
  a.mov(rsi, logits);
  a.mov(rcx, numChunks);
  a.mov(r32(rdx), 1);
  const chunk = a.here('rankChunk');
  redirect(a, rsi);
  for (const part of simd.parts) {
    const x = simd.v(part);
    a.vmovups(x, mem(rsi, part * simd.bytes));
    simd.sane(x);
    simd.bits(rax, compare.gt, x, simd.v(own), simd.v(2));
    a.popcnt(r32(rax), r32(rax));
    a.add(r32(rdx), r32(rax));
  }
  a.add(rsi, chunkBytes);
  a.dec(rcx);
  a.jne(chunk);
  a.mov(mem(result, resultField.rank), r32(rdx));
}
