// Owns time as an argument: milliseconds that only ever grow.

export interface Clock {
  nowMs(): number;
}

export const monotonicClock: Clock = { nowMs: () => performance.now() };
