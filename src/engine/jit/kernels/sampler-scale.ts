// Owns the processed logits: raw ones over the temperature, with their edits, the maxima of their chunks, and the arg-max.
import { type Mem, mem } from '../asm/operands.ts';
import { r32, rax, rcx, rdi, rdx, rsi, xmm } from '../asm/registers.ts';
import { editBytes, editField, rowField } from './sampler-abi.ts';
import { maxFloat } from './sampler-math.ts';
import {
  chunkBytes,
  flagNaN,
  loadTail,
  logits,
  numChunks,
  type RowCode,
  redirect,
  row,
  scaled,
  watchNaN,
} from './sampler-row.ts';
import { compare } from './sampler-vector.ts';

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
