// Owns which tokens are kept: min-p, top-k and top-p as one threshold, found by bisection instead of sorting.
//
// Both searches ask a question of a threshold t that can only turn from yes to no as t grows, so any way of searching ends at
// the same float as the twin's. Chunks whose maximum is below the best known bound contribute nothing and are left out.
import { type Label, mem } from '../asm/operands.ts';
import { type Gpr, r8, r9, r10, r11, r32, rax, rcx, rdi, rdx, rsi, xmm } from '../asm/registers.ts';
import { rowField } from './sampler-abi.ts';
import { maxFloat } from './sampler-math.ts';
import { chunkBytes, numChunks, type RowCode, row, scaled } from './sampler-row.ts';
import { compare } from './sampler-vector.ts';

/** Vector registers. In every lane: the largest scaled logit, the value in question. In lane 0: the others. */
const max = 14;
const probe = 13;
const [threshold, target, guess, upper] = [15, 12, 11, 10];
/** General registers: the chunks in question. */
const [first, end] = [rdi, r10];

/** Further below the maximum than this, a token's weight is exactly 0 (minExponent · ln 2 is -87.3). */
const weightlessBelow = 88;
/** Where top-p first looks, below the maximum: there is hardly any mass further down. */
const firstGuess = 16;
/** Halvings of that distance before the search goes on over the floats themselves. */
const numGuesses = 8;

/** xmm15 = the smallest scaled logit that is kept. Clobbers rax, rcx, rdx, rsi, rdi, r8-r11. */
export function emitThreshold(code: RowCode): void {
  const { a, simd, at } = code;
  const [allChunks, noTopK, noTopP] = [a.label('allChunks'), a.label('noTopK'), a.label('noTopP')];
  a.vbroadcastss(simd.v(max), at.scaledMax);
  a.vaddss(xmm(threshold), xmm(max), mem(row, rowField.minPOffset));
  a.vmaxss(xmm(threshold), xmm(threshold), a.f32(-maxFloat));

  a.mov(r32(rax), mem(row, rowField.topK));
  a.test(r32(rax), r32(rax));
  a.je(noTopK);
  a.cmp(r32(rax), r32(numChunks));
  a.jae(allChunks);
  // As many maxima as wanted tokens reach some value: so do at least as many logits.
  a.mov(first, at.maxima);
  a.mov(end, at.maximaEnd);
  emitTopK(code);
  a.bind(allChunks);
  emitCollect(code);
  emitTopK(code);
  a.bind(noTopK);

  a.vmovss(xmm(0), mem(row, rowField.topP));
  a.vucomiss(xmm(0), a.f32(1));
  a.jae(noTopP);
  emitCollect(code);
  emitWeights(code);
  emitTopP(code);
  a.bind(noTopP);
}

/** Copies the chunks that reach the threshold: [first, end). Clobbers rcx, rdx, rsi. */
function emitCollect({ a, simd, at }: RowCode): void {
  const skip = a.label('skipChunk');
  a.mov(rsi, at.maxima);
  a.mov(rdx, scaled);
  a.mov(end, at.candidates);
  a.mov(rcx, numChunks);
  const chunk = a.here('collect');
  a.vucomiss(xmm(threshold), mem(rsi));
  a.ja(skip);
  for (const part of simd.parts) {
    a.vmovups(simd.v(0), mem(rdx, part * simd.bytes));
    a.vmovups(mem(end, part * simd.bytes), simd.v(0));
  }
  a.add(end, chunkBytes);
  a.bind(skip);
  a.add(rsi, 4);
  a.add(rdx, chunkBytes);
  a.dec(rcx);
  a.jne(chunk);
  a.mov(first, at.candidates);
}

/** Raises the threshold to the largest value that at least topK of [first, end) reach, if they reach the threshold. */
function emitTopK(code: RowCode): void {
  const { a, simd } = code;
  a.vmovaps(xmm(upper), xmm(max));
  emitBisection(code, (yes) => {
    a.mov(rsi, first);
    a.mov(r32(rdx), 0);
    const step = a.here('count');
    for (const part of simd.parts) {
      simd.bits(rax, compare.le, simd.v(probe), mem(rsi, part * simd.bytes), simd.v(0));
      a.popcnt(r32(rax), r32(rax));
      a.add(r32(rdx), r32(rax));
    }
    a.add(rsi, chunkBytes);
    a.cmp(rsi, end);
    a.jb(step);
    a.cmp(r32(rdx), mem(row, rowField.topK));
    a.jae(yes);
  });
}

/** Weights exp(x - max) of the kept candidates, 0 of the others; xmm12 = topP · their sum. Clobbers rcx, rsi. */
function emitWeights(code: RowCode): void {
  const { a, simd } = code;
  const sum = 8;
  for (const part of simd.parts) simd.zero(simd.v(sum + part));
  a.vbroadcastss(simd.v(probe), xmm(threshold));
  a.mov(rsi, first);
  weightsDistance(code, rcx);
  const chunk = a.here('weigh');
  for (const part of simd.parts) {
    const [weight, x] = [simd.v(0), simd.v(4)];
    a.vmovups(x, mem(rsi, part * simd.bytes));
    a.vsubps(weight, x, simd.v(max));
    simd.exp(weight, [simd.v(1), simd.v(2), simd.v(3)]);
    simd.keepWhere(weight, weight, compare.ge, x, simd.v(probe), simd.v(1));
    a.vmovups(mem(rsi, part * simd.bytes, { index: rcx }), weight);
    a.vaddps(simd.v(sum + part), simd.v(sum + part), weight);
  }
  a.add(rsi, chunkBytes);
  a.cmp(rsi, end);
  a.jb(chunk);
  simd.foldSum(
    simd.parts.map((part) => simd.v(sum + part)),
    simd.v(0),
  );
  a.vmulss(xmm(target), xmm(sum), mem(row, rowField.topP));
}

/** Bytes from a candidate to its weight. */
function weightsDistance({ a, at }: RowCode, dst: Gpr): void {
  a.mov(dst, at.weights);
  a.sub(dst, at.candidates);
}

/** Raises the threshold to the largest value at or above which the weights sum to the target. */
function emitTopP(code: RowCode): void {
  const { a, simd } = code;
  a.vsubss(xmm(0), xmm(max), a.f32(weightlessBelow));
  a.vmaxss(xmm(threshold), xmm(threshold), xmm(0));
  a.vmovaps(xmm(upper), xmm(max));
  a.vsubss(xmm(guess), xmm(max), a.f32(firstGuess));
  a.mov(r32(r11), numGuesses);

  const [yes, next] = [a.label('guessHolds'), a.label('nextGuess')];
  const attempt = a.here('guess');
  a.vucomiss(xmm(guess), xmm(threshold));
  a.jbe(next);
  a.vucomiss(xmm(guess), xmm(upper));
  a.jae(next);
  a.vbroadcastss(simd.v(probe), xmm(guess));
  emitMassTest(code, yes);
  a.vmovaps(xmm(upper), xmm(guess));
  a.jmp(next);
  a.bind(yes);
  a.vmovaps(xmm(threshold), xmm(guess));
  emitShrink(code);
  a.bind(next);
  a.vaddss(xmm(guess), xmm(threshold), xmm(upper));
  a.vmulss(xmm(guess), xmm(guess), a.f32(0.5));
  a.dec(r32(r11));
  a.jne(attempt);

  emitBisection(code, (holds) => emitMassTest(code, holds));
}

/** Jumps to `yes` if the weights of candidates at or above the probe reach the target. Clobbers rcx, rsi. */
function emitMassTest(code: RowCode, yes: Label): void {
  const { a, simd } = code;
  const sum = 8;
  for (const part of simd.parts) simd.zero(simd.v(sum + part));
  weightsDistance(code, rcx);
  a.mov(rsi, first);
  const step = a.here('mass');
  for (const part of simd.parts) {
    const [x, weight] = [simd.v(3 * part), simd.v(3 * part + 1)];
    a.vmovups(x, mem(rsi, part * simd.bytes));
    a.vmovups(weight, mem(rsi, part * simd.bytes, { index: rcx }));
    simd.keepWhere(weight, weight, compare.ge, x, simd.v(probe), simd.v(3 * part + 2));
    a.vaddps(simd.v(sum + part), simd.v(sum + part), weight);
  }
  a.add(rsi, chunkBytes);
  a.cmp(rsi, end);
  a.jb(step);
  simd.foldSum(
    simd.parts.map((part) => simd.v(sum + part)),
    simd.v(0),
  );
  a.vucomiss(xmm(sum), xmm(target));
  a.jae(yes);
}

/** Drops the candidate chunks that lie below the probe as a whole. Clobbers rax, rcx, rdx, rsi, r8, r9. */
function emitShrink(code: RowCode): void {
  const { a, simd } = code;
  const skip = a.label('dropChunk');
  weightsDistance(code, rcx);
  a.mov(rsi, first);
  a.mov(rdx, first);
  const chunk = a.here('shrink');
  a.mov(r32(r8), 0);
  for (const part of simd.parts) {
    a.vmovups(simd.v(part), mem(rsi, part * simd.bytes));
    simd.bits(rax, compare.ge, simd.v(part), simd.v(probe), simd.v(4));
    a.or(r32(r8), r32(rax));
  }
  a.test(r32(r8), r32(r8));
  a.je(skip);
  for (const part of simd.parts) {
    const place = mem(rdx, part * simd.bytes);
    a.vmovups(simd.v(4), mem(rsi, part * simd.bytes, { index: rcx }));
    a.vmovups(place, simd.v(part));
    a.vmovups({ ...place, index: rcx }, simd.v(4));
  }
  a.add(rdx, chunkBytes);
  a.bind(skip);
  a.add(rsi, chunkBytes);
  a.cmp(rsi, end);
  a.jb(chunk);
  a.mov(end, rdx);
}

/**
 * Raises the threshold to the largest float up to `upper` for which `test` jumps to its label, by halving the range of
 * order-preserving integers. `test` reads the probe and may clobber rax, rcx, rdx, rsi. Clobbers r8, r9, r11 besides.
 */
function emitBisection(code: RowCode, test: (yes: Label) => void): void {
  const { a, simd } = code;
  const [low, high, middle] = [r8, r9, r11];
  const [yes, done] = [a.label('holds'), a.label('found')];
  emitKeyOf(code, low, threshold);
  emitKeyOf(code, high, upper);
  a.inc(high);
  const halve = a.here('halve');
  a.lea(rax, mem(low, 1));
  a.cmp(rax, high);
  a.jae(done);
  a.lea(middle, mem(low, 0, { index: high }));
  a.shr(middle, 1);
  emitValueOf(code, probe, middle);
  a.vbroadcastss(simd.v(probe), xmm(probe));
  test(yes);
  a.mov(high, middle);
  a.jmp(halve);
  a.bind(yes);
  a.mov(low, middle);
  a.jmp(halve);
  a.bind(done);
  emitValueOf(code, threshold, low);
}

/** The twin's keyOf: negative floats inverted, positive ones with the sign bit set. Clobbers rcx. */
function emitKeyOf({ a }: RowCode, key: Gpr, value: number): void {
  a.vmovd(r32(key), xmm(value));
  a.mov(r32(rcx), r32(key));
  a.sar(r32(rcx), 31);
  a.or(r32(rcx), 0x8000_0000 | 0);
  a.xor(r32(key), r32(rcx));
}

/** The twin's valueOfKey. Clobbers rax, rcx. */
function emitValueOf({ a }: RowCode, value: number, key: Gpr): void {
  a.mov(r32(rcx), r32(key));
  a.sar(r32(rcx), 31);
  a.not(r32(rcx));
  a.or(r32(rcx), 0x8000_0000 | 0);
  a.mov(r32(rax), r32(key));
  a.xor(r32(rax), r32(rcx));
  a.vmovd(xmm(value), r32(rax));
}
