// Owns how one request's seed becomes a seed per choice, alike in the service and in every engine.

const MASK_64 = (1n << 64n) - 1n;
/** 2^64 divided by the golden ratio: the increment of splitmix64 (Steele, Lea, Flood 2014). */
const GOLDEN = 0x9e3779b97f4a7c15n;

/** splitmix64's next output from `state`. */
function splitmix64(state: bigint): bigint {
  let z = (state + GOLDEN) & MASK_64;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK_64;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK_64;
  return z ^ (z >> 31n);
}

/** Seed of choice `choice` of a request with an explicit seed: choice 0 keeps it. 64-bit unsigned. */
export function choiceSeed(seed: bigint, choice: number): bigint {
  const base = seed & MASK_64;
  if (choice === 0) return base;
  return splitmix64(base ^ ((BigInt(choice) * GOLDEN) & MASK_64));
}
