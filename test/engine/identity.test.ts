// The same request gives the same bits whatever else is in the batch: chunked, preempted, warm, asynchronous, seeded or not.
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { monotonicClock } from '../../src/common/clock.ts';
import { type EngineLoadOptions, loadEngine } from '../../src/engine/step/load-engine.ts';
import { StepLoop } from '../../src/engine/step/step-loop.ts';
import { ordinarySequence, type SequenceSpec, type SequenceUpdate } from '../../src/engine/scheduler/spec.ts';
import { resolveModel } from '../../src/files/resolve/resolve-model.ts';
import { modelSettings } from '../../src/files/resolve/settings.ts';
import { counts, root } from '../support/server.ts';
import type { Kernels } from '../../src/engine/step/kernel-choice.ts';
import { kernelSets } from '../support/kernel-sets.ts';

const tinyModel = join(root, 'test/fixtures/golden/llama');

interface Setting {
  readonly maxNumBatchedTokens: number;
  readonly maxNumSeqs: number;
  readonly asyncScheduling: boolean;
  /** Small enough that sequences are preempted. */
  readonly kvCacheMemory?: number;
}

const options = (modelPath: string, kernels: Kernels, setting: Setting): EngineLoadOptions => ({
  modelPath,
  modelName: 'identity',
  dtype: 'auto',
  kernels,
  threads: 2,
  deterministic: true,
  maxModelLen: modelPath === tinyModel ? 256 : 1024,
  maxQueueLen: 10_000,
  maxQueueWaitS: 0,
  maxNumPartialPrefills: 3,
  maxLongPartialPrefills: 2,
  longPrefillThreshold: 128,
  schedulingPolicy: 'fcfs',
  enablePrefixCaching: true,
  blockSize: 16,
  // The tiny model tests ranges, the default model what kernels get by themselves.
  kvLayout: modelPath === tinyModel ? 'xtensor' : 'auto',
  kvCacheDtype: 'auto',
  instancesOnHost: 1,
  cacheFolder: '',
  weightsCacheLimit: 0,
  weightsMemory: 'auto',
  perfMap: false,
  ...setting,
});

/** A small seeded generator. */
function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Requests of random length; a third begin with the same tokens, so that prefixes are warm for some. */
function randomRequests(
  numRequests: number,
  maxPrompt: number,
  maxNew: number,
  vocabSize: number,
  seed: number,
): SequenceSpec[] {
  const next = random(seed);
  const token = () => 3 + Math.floor(next() * (vocabSize - 3));
  const shared = Array.from({ length: Math.floor(maxPrompt / 2) }, token);
  return Array.from({ length: numRequests }, (_, id) => {
    const numPrompt = 1 + Math.floor(next() ** 2 * (maxPrompt - 1));
    const own = Array.from({ length: numPrompt }, token);
    const promptIds = next() < 1 / 3 ? [...shared, ...own].slice(0, maxPrompt) : own;
    const isSampled = next() < 0.5;
    return {
      ...ordinarySequence,
      id,
      promptIds: Int32Array.from(promptIds),
      params: {
        temperature: isSampled ? 0.5 + next() : 0,
        topK: next() < 0.3 ? 1 + Math.floor(next() * 50) : 0,
        topP: next() < 0.3 ? 0.5 + next() / 2 : 1,
        minP: next() < 0.2 ? 0.05 : 0,
        repetitionPenalty: next() < 0.2 ? 1.2 : 1,
        presencePenalty: next() < 0.2 ? 0.5 : 0,
        frequencyPenalty: 0,
        logitBias: next() < 0.2 ? [{ tokenId: token(), bias: 3 }] : [],
        minTokens: next() < 0.2 ? 2 : 0,
        maxTokens: 1 + Math.floor(next() * maxNew),
        ignoreEos: next() < 0.7,
        stopTokenIds: [],
        numLogprobs: next() < 0.2 ? 3 : -1,
        numPromptLogprobs: -1,
      },
      seed: BigInt(Math.floor(next() * 2 ** 52)),
      offline: next() < 0.2,
    };
  });
}

/** What a client would see: tokens, log-probabilities and finish reason, exactly. */
type Answer = string;

/** Runs requests on a fresh engine, `perWave` at a time, and returns each answer, and how often sequences were preempted. */
async function serve(
  load: EngineLoadOptions,
  setting: Setting,
  requests: readonly SequenceSpec[],
  perWave: number,
): Promise<{ answers: Map<number, Answer>; numPreemptions: number }> {
  const engine = await loadEngine(load, monotonicClock);
  const parts = new Map<number, { tokens: number[]; logprobs: number[] }>();
  const answers = new Map<number, Answer>();
  let onWaveEnd = () => {};
  let numOpen = 0;
  let failure: unknown = null;
  const take = (updates: readonly SequenceUpdate[]) => {
    for (const update of updates) {
      const part = parts.get(update.id) ?? { tokens: [], logprobs: [] };
      parts.set(update.id, part);
      part.tokens.push(...update.tokenIds);
      for (const { logprob, top } of update.logprobs)
        part.logprobs.push(logprob, ...(top?.ids ?? []), ...(top?.logprobs ?? []));
      if (update.finish === null) continue;
      answers.set(update.id, JSON.stringify({ ...part, finish: update.finish, stop: update.stopTokenId }));
      if (--numOpen === 0) onWaveEnd();
    }
  };
  const loop = new StepLoop<SequenceUpdate>({
    scheduler: engine.scheduler,
    executor: engine.executor,
    clock: monotonicClock,
    asyncScheduling: setting.asyncScheduling,
    onCommit: (_plan, _output, updates) => take(updates),
    onFailure: (error) => {
      failure = error;
      onWaveEnd();
    },
  });
  for (let first = 0; first < requests.length; first += perWave) {
    const wave = requests.slice(first, first + perWave);
    numOpen = wave.length;
    const ended = new Promise<void>((resolve) => {
      onWaveEnd = resolve;
    });
    for (const spec of wave) expect(engine.scheduler.add(spec, monotonicClock.nowMs())).toBeNull();
    loop.wake();
    await ended;
    if (failure) throw failure;
  }
  const { numPreemptions } = engine.scheduler.stats();
  await loop.close();
  engine.kv.checkIntegrity();
  await engine.close();
  return { answers, numPreemptions };
}

async function expectIdentity(
  modelPath: string,
  kernels: Kernels,
  requests: readonly SequenceSpec[],
  kvBytesShort: number,
): Promise<void> {
  const alone: Setting = { maxNumBatchedTokens: 512, maxNumSeqs: 1, asyncScheduling: false };
  const { answers: expected } = await serve(options(modelPath, kernels, alone), alone, requests, 1);
  const mixes: readonly (Setting & { perWave: number })[] = [
    { maxNumBatchedTokens: 64, maxNumSeqs: 16, asyncScheduling: true, perWave: 1000 },
    { maxNumBatchedTokens: 300, maxNumSeqs: 7, asyncScheduling: false, perWave: 9 },
    { maxNumBatchedTokens: 128, maxNumSeqs: 24, asyncScheduling: true, perWave: 1000, kvCacheMemory: kvBytesShort },
  ];
  for (const mix of mixes) {
    const { perWave, ...setting } = mix;
    const { answers, numPreemptions } = await serve(options(modelPath, kernels, setting), setting, requests, perWave);
    expect(answers.size).toBe(requests.length);
    for (const { id } of requests)
      expect(answers.get(id), `request ${id} under ${JSON.stringify(mix)}`).toBe(expected.get(id));
    if (setting.kvCacheMemory) expect(numPreemptions).toBeGreaterThan(0);
  }
}

describe('outputs do not depend on the batch', { timeout: 3_600_000 }, () => {
  test.each(kernelSets)('tiny model in F32, kernels %s', async (kernels) => {
    await expectIdentity(tinyModel, kernels, randomRequests(counts(24, 200), 120, 100, 288, 7), 180_000);
  });

  test('default model', async () => {
    const { path } = await resolveModel(undefined, { settings: modelSettings(process.env) });
    const maxPrompt = counts(120, 900);
    await expectIdentity(
      path,
      'auto',
      randomRequests(counts(8, 200), maxPrompt, counts(40, 80), 49_000, 11),
      counts(5, 30) * 2 ** 20,
    );
  });
});
