// Owns the sampler's passes over raw logits: block maxima, the plain arg-max, log-sum-exp and rank.
import { mem } from '../asm/operands.ts';
import { r10, r32, rax, rcx, rdi, rdx, rsi, xmm } from '../asm/registers.ts';
import { resultField } from './sampler-abi.ts';
import { maxFloat } from './sampler-math.ts';
import {
  chunkBytes,
  flagNaN,
  loadTail,
  logits,
  numChunks,
  type RowCode,
  redirect,
  result,
  takeBlock,
  watchNaN,
} from './sampler-row.ts';
import { compare } from './sampler-vector.ts';

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
