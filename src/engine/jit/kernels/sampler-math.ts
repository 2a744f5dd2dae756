// Owns the numbers that the emitted samplers and their TypeScript twin must share to agree bit for bit.

/**
 * 2^f on [-0.5, 0.5], least maximum relative error (2.0e-9 before rounding), highest power first; the constant term is 1,
 * so that exp(0) is exactly 1.
 */
export const exp2Polynomial = [
  1.53533328557387e-4, 1.339887734502554e-3, 9.618437848985195e-3, 5.5503323674201965e-2, 2.4022647738456726e-1,
  6.931471824645996e-1, 1,
] as const;

/** 1.5 * 2^23: adding it to a float of less than 2^22 leaves the nearest integer in the low bits. */
export const roundingMagic = 12_582_912;

/** exp(t) is 0 where t * log2(e) is less than this: every other result is a normal number. */
export const minExponent = -126;

/** ln(1 + f) = f - f²/2 + f³ P(f) on [sqrt(1/2) - 1, sqrt(2) - 1], highest power first (Cephes, logf.c). */
export const logPolynomial = [
  7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
  2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
] as const;

/** ln 2 in two parts; the first has so few bits that its product with an exponent is exact. */
export const ln2High = 0.693359375;
export const ln2Low = -2.1219444e-4;

/** Bits of sqrt(1/2): an exponent counts from here, so that mantissas lie in [sqrt(1/2), sqrt(2)). */
export const sqrtHalfBits = 0x3f3504f3;

/**
 * The token's hash: three multiplications with their xor-shifts (constants of triple32, Chris Wellons, hash-prospector),
 * the row's second key word mixed in after the first.
 */
export const hashSteps = [
  { shift: 17, multiplier: 0xed5ad4bb },
  { shift: 11, multiplier: 0xac4c1b51 },
  { shift: 15, multiplier: 0x31848bab },
] as const;
export const hashLastShift = 14;

/** Largest uniform number: 1 - 2^-24, so that ln(1 - v) is finite. The smallest is 2^-32. */
export const maxUniform = 1 - 2 ** -24;

/** No noise exceeds 32 ln 2 = 22.181. */
export const maxNoise = 22.1875;

export const maxFloat = 3.4028234663852886e38;

/** Partial sums over 16 virtual lanes restart at every block of this many logits; block maxima have the same size. */
export const blockSize = 512;
