// Who leaves a draining instance when: the urgent first, a few at a time, again where it was refused, and never in a rush.
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Refusal } from '../../common/errors.ts';
import { Moves } from './moves.ts';

const refusal: Refusal = { refused: 'overloaded', message: 'full', retryAfterS: 1 };

class Request {
  instance: string | null;
  numTries = 0;
  answer: (refused: Refusal | null) => void = () => {};

  constructor(instance: string | null) {
    this.instance = instance;
  }

  move(): Promise<Refusal | null> {
    this.numTries++;
    return new Promise((resolve) => {
      this.answer = (refused) => {
        if (!refused) this.instance = 'other';
        resolve(refused);
      };
    });
  }
}

let requests: Request[];
let moves: Moves<Request>;
beforeEach(() => {
  vi.useFakeTimers();
  requests = [];
  moves = new Moves({ draining: () => ['a'], running: () => requests });
});
afterEach(() => {
  moves.close();
  vi.useRealTimers();
});

const tries = () => requests.map(({ numTries }) => numTries);

test('four at a time, in order, and only those that are there', async () => {
  requests = ['a', 'b', 'a', 'a', 'a', 'a', 'a'].map((name) => new Request(name));
  moves.wake();
  await vi.advanceTimersByTimeAsync(0);
  expect(tries()).toEqual([1, 0, 1, 1, 1, 0, 0]);
  requests[2]?.answer(null);
  await vi.advanceTimersByTimeAsync(0);
  expect(tries()).toEqual([1, 0, 1, 1, 1, 1, 0]);
});

test('what is refused is tried again after a while, until it has gone', async () => {
  requests = [new Request('a')];
  moves.wake();
  for (let round = 1; round <= 3; round++) {
    await vi.advanceTimersByTimeAsync(250);
    expect(tries()).toEqual([round]);
    requests[0]?.answer(refusal);
    await vi.advanceTimersByTimeAsync(0);
    expect(tries()).toEqual([round]);
  }
  await vi.advanceTimersByTimeAsync(250);
  requests[0]?.answer(null);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(tries()).toEqual([4]);
  expect(vi.getTimerCount()).toBe(0);
});

test('what cannot move yet, because it is just being sent, is looked at again, and not at once', async () => {
  const request = new Request('a');
  request.move = () => {
    request.numTries++;
    return Promise.resolve(null);
  };
  requests = [request];
  moves.wake();
  await vi.advanceTimersByTimeAsync(1_000);
  expect(request.numTries).toBeLessThanOrEqual(5);
  expect(request.numTries).toBeGreaterThan(2);
});
