// A routed request over instances that refuse, die and speak late: the client's stream has no gap, no repeat, one end each.
import { create } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isRefusal, type Refusal } from '../../common/errors.ts';
import { SamplingSchema } from '../../contract/generated/xllm_pb.js';
import { type EngineDelta, type EngineRequest, ordinaryRequest, type TokenLogprob } from '../engine-client.ts';
import type { RoutingDecision } from '../routing/router.ts';
import { candidatesOf } from '../routing/predict.ts';
import { clusterOf, instanceView, routingRequest } from '../routing/testing/clusters.ts';
import { emptyDelta } from './delta-codec.ts';
import type { Attempt, HandOffAddress } from './engine-connection.ts';
import { RoutedRequest, type RoutingHost } from './routed-request.ts';
import type { AttemptEvents } from './running-attempt.ts';

const promptLength = 9;
const names = ['a', 'b', 'c', 'd'];

const logprob = (tokenId: number): TokenLogprob => ({
  tokenId,
  logprob: -tokenId,
  rank: 1,
  topIds: new Int32Array(0),
  topLogprobs: new Float32Array(0),
});

/** What any engine would generate: token i of a seed. */
const tokenOf = (seed: bigint, i: number) => Number(seed) * 1_000 + i;

/** An attempt as an engine has it: it goes on speaking until it is done, heard or not. */
interface Running {
  readonly attempt: Attempt;
  readonly onDelta: (delta: EngineDelta) => void;
  instance: string;
  readonly numTokens: number[];
  numPromptTold: number;
  readonly open: Set<number>;
  isPaused: boolean;
}

class Cluster implements RoutingHost {
  readonly running: Running[] = [];
  readonly events: string[] = [];
  readonly lost: RoutedRequest[] = [];
  /** Moves that are asked for, to be answered: gone, or it stays. */
  readonly moves: ((isGone: boolean) => void)[] = [];
  readonly refusing = new Set<string>();
  numEnded = 0;
  numAborted = 0;

  nowMs(): number {
    return 0;
  }

  follow(request: RoutedRequest, source: string, excluded: ReadonlySet<string>) {
    return this.route(request, new Set([source, ...excluded]));
  }

  handedOff(): void {
    throw new Error('nothing is handed off here but by a move');
  }

  route(_: RoutedRequest, excluded: ReadonlySet<string>) {
    const view = clusterOf(names.map((name) => ({ view: instanceView(name), heldBlocks: 0 })));
    const candidates = candidatesOf(
      routingRequest(),
      view,
      excluded,
      () => 1,
      () => true,
    );
    const chosen = candidates[0];
    return chosen
      ? { instance: chosen.instance.name, policy: 'round-robin' as const, reason: '', chosen, candidates, decode: null }
      : null;
  }

  async submit({ instance }: RoutingDecision, attempt: Attempt, { onDelta, onGoneOn }: AttemptEvents) {
    await Promise.resolve();
    if (this.refusing.has(instance)) return { refused: 'overloaded', message: 'full', retryAfterS: 2 } as const;
    const running: Running = {
      attempt,
      onDelta,
      instance,
      numTokens: attempt.generatedIds.map((ids) => ids.length),
      numPromptTold: 0,
      open: new Set(attempt.seeds.keys()),
      isPaused: false,
    };
    attempt.generatedIds.forEach((ids, choice) => {
      expect([...ids]).toEqual(Array.from(ids, (_, i) => tokenOf(attempt.seeds[choice]!, i)));
      expect(ids.length).toBeLessThan(attempt.maxTokens);
    });
    this.running.push(running);
    return {
      get instance() {
        return running.instance;
      },
      moveTo: (target: HandOffAddress) =>
        new Promise<boolean>((resolve) => {
          this.moves.push((isGone) => {
            if (isGone) running.instance = target.name;
            if (isGone && running.open.size > 0) onGoneOn(1);
            resolve(isGone);
          });
        }),
      abort: (choice?: number) => {
        if (choice === undefined) {
          this.numAborted++;
          running.open.clear();
          for (const answer of this.moves.splice(0)) answer(false);
        } else running.open.delete(choice);
      },
      pause: () => {
        running.isPaused = true;
      },
      resume: () => {
        running.isPaused = false;
      },
    };
  }

  recover(request: RoutedRequest): void {
    this.lost.push(request);
  }

  note(_: RoutedRequest, { event }: { readonly event: string }): void {
    this.events.push(event);
  }

  measured(): void {}

  moved(): void {}

  ended(): void {
    this.numEnded++;
  }

  /** One step of every engine, `count` tokens a choice. */
  step(count: number): void {
    for (const running of this.running) {
      const { attempt, onDelta, numTokens } = running;
      if (running.isPaused) continue;
      const wanted = attempt.sampling.numPromptLogprobs >= 0 ? promptLength - 1 : 0;
      const toTell = Math.min(3, wanted - running.numPromptTold);
      for (const choice of running.open) {
        if (toTell > 0) {
          const promptLogprobs = Array.from({ length: toTell }, (_, i) => logprob(running.numPromptTold + i));
          onDelta({ ...emptyDelta(choice), promptLogprobs });
          continue;
        }
        const first = numTokens[choice]!;
        const end = Math.min(attempt.maxTokens, first + count);
        const ids = Array.from({ length: end - first }, (_, i) => tokenOf(attempt.seeds[choice]!, first + i));
        const isFirst = first === attempt.generatedIds[choice]!.length;
        numTokens[choice] = end;
        if (end === attempt.maxTokens) running.open.delete(choice);
        onDelta({
          ...emptyDelta(choice),
          tokenIds: Int32Array.from(ids),
          logprobs: ids.map(logprob),
          finish: end === attempt.maxTokens ? 'length' : null,
          ...(isFirst ? { numCachedTokens: 4, queueMs: 1, prefillMs: 2 } : {}),
        });
      }
      running.numPromptTold += toTell;
    }
  }

  /** The connection to whoever has the latest attempt breaks; with `speaksOn` its engine is heard once more. */
  breakLatest(speaksOn: boolean): void {
    const latest = this.running.at(-1);
    if (!latest) return;
    const error: Refusal = { refused: 'engine_lost', message: 'broken' };
    for (const choice of latest.attempt.seeds.keys()) latest.onDelta({ ...emptyDelta(choice), finish: 'error', error });
    if (!speaksOn) latest.open.clear();
  }
}

const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

type Event =
  | { readonly kind: 'step'; readonly count: number }
  | { readonly kind: 'break'; readonly speaksOn: boolean }
  | { readonly kind: 'move' }
  | { readonly kind: 'answer'; readonly isGone: boolean }
  | { readonly kind: 'stop'; readonly choice: number };

const events: fc.Arbitrary<Event[]> = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: fc.record({ kind: fc.constant('step' as const), count: fc.integer({ min: 1, max: 3 }) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('break' as const), speaksOn: fc.boolean() }) },
    { weight: 2, arbitrary: fc.constant({ kind: 'move' as const }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('answer' as const), isGone: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('stop' as const), choice: fc.nat(2) }) },
  ),
  { maxLength: 30 },
);

test('whatever fails, every choice is told whole, once, or fails as two instances went down', async () => {
  await fc.assert(
    fc.asyncProperty(
      events,
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 20 }),
      fc.boolean(),
      fc.subarray(names, { maxLength: 2 }),
      async (script, n, maxTokens, wantsPrompt, refusing) => {
        const cluster = new Cluster();
        for (const name of refusing) cluster.refusing.add(name);
        const seeds = Array.from({ length: n }, (_, i) => BigInt(i + 1));
        const request: EngineRequest = {
          ...ordinaryRequest,
          requestId: 'r',
          model: 'm',
          promptIds: new Int32Array(promptLength),
          sampling: create(SamplingSchema, { numLogprobs: 0, numPromptLogprobs: wantsPrompt ? 0 : -1 }),
          maxTokens,
          seeds,
        };
        const heard = seeds.map(() => ({
          tokens: [] as number[],
          logprobs: 0,
          prompt: [] as number[],
          ends: [] as string[],
          numCached: 0,
        }));
        const routed = new RoutedRequest(
          cluster,
          request,
          (delta) => {
            const choice = heard[delta.choice]!;
            expect(choice.ends).toEqual([]);
            choice.tokens.push(...delta.tokenIds);
            choice.logprobs += delta.logprobs.length;
            choice.prompt.push(...delta.promptLogprobs.map(({ tokenId }) => tokenId));
            if (delta.numCachedTokens !== null) choice.numCached++;
            if (delta.finish !== null) choice.ends.push(delta.error?.refused ?? delta.finish);
          },
          { ordinal: 0, timeoutMs: 60_000 },
        );
        const handle = await routed.start();
        if (isRefusal(handle)) throw new Error('refused');
        const stopped = new Set<number>();
        let numBroken = 0;
        const moves: Promise<Refusal | null>[] = [];
        for (const event of [...script, ...Array.from({ length: 60 }, (): Event => ({ kind: 'step', count: 3 }))]) {
          const isOver = heard.every(({ ends }, i) => ends.length > 0 || stopped.has(i));
          if (event.kind === 'step') cluster.step(event.count);
          else if (event.kind === 'move') moves.push(routed.move('a test'));
          else if (event.kind === 'answer') cluster.moves.shift()?.(event.isGone);
          else if (event.kind === 'stop') {
            if (event.choice >= n || heard[event.choice]!.ends.length > 0) continue;
            stopped.add(event.choice);
            handle.abort(event.choice, 1);
          } else if (!isOver) {
            numBroken++;
            cluster.breakLatest(event.speaksOn);
          }
          await settle();
          for (const lost of cluster.lost.splice(0)) expect(await lost.redispatch()).toBeNull();
        }
        const isFailed = numBroken >= 2;
        for (const answer of cluster.moves.splice(0)) answer(false);
        await Promise.all(moves);
        // Nobody goes on with what has moved away or was only prepared.
        if (stopped.size === 0) expect(cluster.running.filter(({ open }) => open.size > 0)).toEqual([]);
        heard.forEach(({ tokens, logprobs, prompt, ends, numCached }, choice) => {
          const seed = seeds[choice]!;
          expect(tokens).toEqual(tokens.map((_, i) => tokenOf(seed, i)));
          expect(logprobs).toBe(tokens.length);
          expect(prompt).toEqual(prompt.map((_, i) => i));
          expect(numCached).toBe(tokens.length > 0 ? 1 : 0);
          if (stopped.has(choice)) return;
          if (ends[0] === 'engine_lost') expect(isFailed).toBe(true);
          else {
            expect(ends).toEqual(['length']);
            expect(tokens.length).toBe(maxTokens);
            expect(prompt.length).toBe(wantsPrompt ? promptLength - 1 : 0);
          }
        });
        if (stopped.size === 0) expect(cluster.numEnded).toBe(1);
      },
    ),
    { numRuns: process.env['XLLM_TEST_FULL'] ? 3_000 : 200 },
  );
});
