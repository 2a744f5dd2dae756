// Owns the seeded randomness of load generation: same seed, same load, on every machine.

/** Uniform numbers in [0, 1). */
export type Random = () => number;

/** mulberry32: 32 bits of state, one multiplication chain; ample for arrival times and prompts. */
export function seededRandom(seed: number): Random {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Seed of an independent stream, so that changing one draw (lengths, say) leaves the others (arrivals) as they were. */
export function streamSeed(seed: number, stream: string): number {
  let hash = 0x811c9dc5 ^ seed; // FNV-1a over the name, started from the seed
  for (let i = 0; i < stream.length; i++) hash = Math.imul(hash ^ stream.charCodeAt(i), 0x01000193);
  return hash;
}

/** Integer in [low, high], both included. */
export function randomInteger(random: Random, low: number, high: number): number {
  return low + Math.floor(random() * (high - low + 1));
}

/** Standard normal, Box-Muller. */
function normal(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** Gamma with mean `shape` (scale 1): Marsaglia and Tsang 2000, boosted by a power of a uniform for shapes below 1. */
export function gamma(random: Random, shape: number): number {
  if (shape < 1) return gamma(random, shape + 1) * (1 - random()) ** (1 / shape);
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = normal(random);
    const v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(1 - random()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v;
  }
}
