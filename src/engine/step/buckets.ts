// Owns how step sizes are rounded, so that few graphs serve all steps and few rows are wasted.

/** Exact up to 8, then steps of at most a fifth: 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, … */
export function roundUpTokens(count: number): number {
  if (count <= 8) return count;
  if (count <= 12) return count + (count & 1);
  let step = 4;
  while (step * 8 < count) step *= 2;
  return Math.ceil(count / step) * step;
}

/** Blocks of a padded KV range: powers of two up to 16, then multiples of 16. */
export function roundUpBlocks(count: number): number {
  if (count > 16) return Math.ceil(count / 16) * 16;
  let blocks = 1;
  while (blocks < count) blocks *= 2;
  return blocks;
}
