// Owns when requests of an open load arrive.
import { gamma, type Random } from './random.ts';

/**
 * Arrival times in ms from the start of the run, ascending. Gaps follow a gamma distribution of shape `burstiness`:
 * 1 is a Poisson process, less is burstier (coefficient of variation 1/√burstiness), Infinity is regular. As vLLM
 * does, times are rescaled so that the last one falls exactly at `count / ratePerS`: seeds then differ in pattern, not
 * in mean rate. A rate of Infinity sends everything at once.
 */
export function arrivalTimes(count: number, ratePerS: number, burstiness: number, random: Random): Float64Array {
  const times = new Float64Array(count);
  if (ratePerS === Infinity) return times;
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += burstiness === Infinity ? 1 : gamma(random, burstiness);
    times[i] = sum;
  }
  const scale = ((count / ratePerS) * 1000) / sum;
  return times.map((time) => time * scale);
}
