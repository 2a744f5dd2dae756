// Owns the draw: the arg-max of scaled logit + Gumbel noise over the kept tokens, computing noise only where it can decide.
//
// A token wins only if its noise g = -ln(-ln(1 - v)) exceeds B - x, with B the best score so far; since -ln(1 - v) ≥ v that
// needs v < exp(x - B). An upper bound of exp takes three instructions, so a vector costs its hash and little more, and few
// vectors are ever scored: the record of a row is broken about ln(numIds) times. Nothing that could win or tie is skipped.
import { mem } from '../asm/operands.ts';
import { rax, rcx, rdx, rsi, r32, xmm } from '../asm/registers.ts';
import { rowField } from './sampler-abi.ts';
import { hashLastShift, hashSteps, maxNoise, maxUniform } from './sampler-math.ts';
import { numChunks, type RowCode, row, scaled } from './sampler-row.ts';
import { compare } from './sampler-vector.ts';

/** Vector registers. In every lane: threshold, B less its slack, key words. Per lane: best score and its id. */
const [threshold, bestScore, bestId, bound, key1, key0] = [15, 14, 13, 12, 10, 9];
/** In lane 0: chunks whose maximum is below this cannot win. */
const enough = 11;
/** Of the vector at hand: scaled logits, ids, the hash and what becomes of it; then scratch. */
const [logit, id, hash, t0, t1, t2, t3, t4] = [0, 1, 2, 3, 4, 5, 6, 7];

/** Slack below B that covers every rounding in the bound and in the scores: 0.01 and 8 units in the last place. */
const [absoluteSlack, relativeSlack] = [0.01, 2 ** -21];
/** Past this, x - B needs no exactness: such a token always qualifies. */
const farAbove = 8;

/**
 * eax = the drawn id. xmm15 holds the threshold. Clobbers rcx, rdx, rsi.
 * Scores the largest logit's chunk first, only for its B, then all chunks in order.
 */
export function emitDraw(code: RowCode): void {
  const { a, simd, at } = code;
  const [visit, done] = [a.label('visit'), a.label('drawn')];
  a.vbroadcastss(simd.v(threshold), xmm(threshold));
  a.vpbroadcastd(simd.v(key0), mem(row, rowField.key0));
  a.vpbroadcastd(simd.v(key1), mem(row, rowField.key1));
  a.vmovups(simd.v(bound), simd.float(-Infinity));
  emitNoBest(code);
  a.mov(r32(rdx), 0);
  a.mov(rcx, at.scaledMaxChunk);
  a.jmp(visit);

  const scan = a.here('drawScan');
  a.inc(rcx);
  const check = a.here('drawCheck');
  a.cmp(rcx, numChunks);
  a.jae(done);
  a.mov(rsi, at.maxima);
  a.vucomiss(xmm(enough), mem(rsi, 0, { index: rcx, scale: 4 }));
  a.ja(scan);
  a.bind(visit);
  for (const part of simd.parts) emitPart(code, part);
  a.test(r32(rdx), r32(rdx));
  a.jne(scan);
  // That was the largest logit's chunk: B is known, the draw begins.
  a.inc(r32(rdx));
  a.mov(r32(rcx), 0);
  emitNoBest(code);
  a.jmp(check);
  a.bind(done);
  emitBestId(code);
}

function emitNoBest({ a, simd }: RowCode): void {
  a.vmovups(simd.v(bestScore), simd.float(-Infinity));
  simd.zero(simd.v(bestId));
}

/** One vector of chunk rcx: filter, and score it if any lane passes. Clobbers rax, rsi. */
function emitPart(code: RowCode, part: number): void {
  const { a, simd } = code;
  const skip = a.label('cannotWin');
  const limit = simd.v(t0);
  a.mov(rsi, rcx);
  a.shl(rsi, 4);
  a.vmovups(simd.v(logit), mem(scaled, part * simd.bytes, { index: rsi, scale: 4 }));
  if (part > 0) a.add(rsi, part * simd.lanes);
  a.vmovd(xmm(id), r32(rsi));
  a.vpbroadcastd(simd.v(id), xmm(id));
  a.vpaddd(simd.v(id), simd.v(id), simd.iota());
  emitHash(code);
  a.vpsrld(simd.v(hash), simd.v(hash), 1);
  a.vcvtdq2ps(simd.v(hash), simd.v(hash));
  // Bits of a float above 2^31 · exp(x - B): between powers of two, 2^y lies below its chord.
  a.vsubps(limit, simd.v(logit), simd.v(bound));
  a.vminps(limit, limit, simd.float(farAbove));
  a.vmulps(limit, limit, simd.float(Math.LOG2E * 2 ** 23));
  a.vaddps(limit, limit, simd.float((127 + 31) * 2 ** 23));
  a.vcvttps2dq(limit, limit);
  simd.bitsOfBoth(rax, [simd.v(logit), simd.v(threshold)], [simd.v(hash), limit], [simd.v(t1), simd.v(t2)]);
  a.test(r32(rax), r32(rax));
  a.je(skip);
  emitScore(code);
  a.bind(skip);
}

/** hash = the twin's hash32 of the ids. */
function emitHash({ a, simd }: RowCode): void {
  const [x, t] = [simd.v(hash), simd.v(t0)];
  simd.xor(x, simd.v(id), simd.v(key0));
  for (const [index, { shift, multiplier }] of hashSteps.entries()) {
    a.vpsrld(t, x, shift);
    simd.xor(x, x, t);
    a.vpmulld(x, x, simd.int(multiplier | 0));
    if (index === 0) simd.xor(x, x, simd.v(key1));
  }
  a.vpsrld(t, x, hashLastShift);
  simd.xor(x, x, t);
}

/** Scores the vector at hand: `hash` holds its hashes over 2, as floats. */
function emitScore(code: RowCode): void {
  const { a, simd } = code;
  const v = simd.v(hash);
  const temps = [simd.v(t0), simd.v(t1), simd.v(t2), simd.v(t3)] as const;
  a.vaddps(v, v, simd.float(0.5));
  a.vmulps(v, v, simd.float(2 ** -31));
  a.vminps(v, v, simd.float(maxUniform));
  simd.ln1m(v, temps, simd.v(t4));
  simd.xor(v, v, simd.int(0x8000_0000 | 0));
  simd.ln(v, temps);
  a.vsubps(v, simd.v(logit), v);

  const score = simd.v(t0);
  a.vmovups(score, simd.float(-Infinity));
  simd.replaceWhere([[score, v]], compare.ge, simd.v(logit), simd.v(threshold), simd.v(t1));
  const best = simd.v(bestScore);
  simd.replaceWhere(
    [
      [simd.v(bestId), simd.v(id)],
      [best, score],
    ],
    compare.gt,
    score,
    best,
    simd.v(t1),
  );
  emitBound(code);
}

/** Raises B, and what follows from it, to the best score so far. */
function emitBound({ a, simd }: RowCode): void {
  const [best, slack, floor] = [xmm(t0), xmm(t1), xmm(t2)];
  a.vmovaps(simd.v(t0), simd.v(bestScore));
  simd.foldMax(simd.v(t0), simd.v(t1));
  a.vxorps(slack, slack, slack);
  a.vsubss(slack, slack, best);
  a.vmaxss(slack, slack, best);
  a.vmulss(slack, slack, a.f32(relativeSlack));
  a.vaddss(slack, slack, a.f32(absoluteSlack));
  a.vsubss(best, best, slack);
  a.vmaxss(best, best, xmm(bound));
  a.vbroadcastss(simd.v(bound), best);
  a.vsubss(floor, best, a.f32(maxNoise));
  a.vmaxss(xmm(enough), floor, xmm(threshold));
}

/** eax = the lowest id among the lanes with the best score. */
function emitBestId({ a, simd }: RowCode): void {
  const [best, ids] = [simd.v(t0), simd.v(t1)];
  a.vmovaps(best, simd.v(bestScore));
  simd.foldMax(best, simd.v(t2));
  a.vbroadcastss(best, xmm(t0));
  a.vmovups(ids, simd.int(0x7fff_ffff));
  simd.replaceWhere([[ids, simd.v(bestId)]], compare.eq, simd.v(bestScore), best, simd.v(t2));
  simd.fold(ids, simd.v(t2), (dst, x, y) => a.vpminsd(dst, x, y));
  a.vmovd(r32(rax), xmm(t1));
}
