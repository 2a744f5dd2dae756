// Owns why a routed request cannot be served, and which of the reasons may pass.
import type { Refusal } from '../../common/errors.ts';

/** An instance that went down with the request twice is the request's fault more likely than not. */
export const maxLosses = 2;

export const noInstance: Refusal = {
  refused: 'engine_unavailable',
  message: 'no engine can take the request: all are starting, restarting or out of reach; retry',
  retryAfterS: 1,
};
export const tookTwoDown: Refusal = {
  refused: 'engine_lost',
  message: `${maxLosses} engines stopped while the request ran; it is not tried again`,
};
export const deadlineRefusal: Refusal = {
  refused: 'deadline_exceeded',
  message: 'the deadline passed; allow more time or ask for fewer tokens',
};

/** Another instance, or the same later, may take it. */
export function isPassing({ refused }: Refusal): boolean {
  return refused === 'overloaded' || refused === 'engine_unavailable' || refused === 'engine_lost';
}
