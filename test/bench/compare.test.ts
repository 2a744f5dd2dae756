import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compareSystems } from '../../src/cli/bench/compare.ts';
import { benchCompareSchema } from '../../src/cli/bench/compare-options.ts';
import { compareResultSchema } from '../../src/cli/bench/compare-result.ts';
import { XllmError } from '../../src/common/errors.ts';
import { callJson } from '../../src/cli/bench/http-json.ts';
import type { Peer } from '../../src/cli/bench/peers/peer.ts';
import { modelShapes } from '../../src/files/model-shapes.ts';
import { synthesiseModel } from '../../src/files/synthesise.ts';
import type { GgufValue } from '../../src/files/weights-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'xllm-compare-'));
const modelPath = join(folder, 'tiny.gguf');
afterAll(() => rmSync(folder, { recursive: true }));

beforeAll(async () => {
  const ids = Array.from({ length: 1500 }, (_, id) => id);
  const tokenizer = new Map<string, GgufValue>([
    ['tokenizer.ggml.tokens', ids.map((id) => `t${id}`)],
    ['tokenizer.ggml.token_type', Int32Array.from(ids, (id) => (id < 3 ? 3 : 1))],
    ['tokenizer.ggml.eos_token_id', 2],
  ]);
  const shape = modelShapes['tiny-llama']!;
  await synthesiseModel({ name: 'tiny', shape, dtype: 'F32', path: modelPath, seed: 0, tokenizer });
});

let numAsked = 0;

/** A system whose continuation of [p, …] is p, p+1, p+2, … */
function fakePeer(name: string, ...flags: string[]): Peer {
  const main = fileURLToPath(new URL('./fake-main.ts', import.meta.url));
  return {
    name,
    prepare: () =>
      Promise.resolve({
        name,
        version: '1.0',
        notes: [],
        hasOtherWeights: name === 'requantised',
        readyPath: '/ready',
        isKeepAlive: true,
        command: ({ port }) => ({ file: process.execPath, args: [main, '--port', String(port), ...flags] }),
        greedyTokens: async (url, prompt, maxTokens) => {
          const reply = await callJson(new URL('/v1/completions', url), { body: { prompt, max_tokens: maxTokens } });
          return (reply.json() as { tokens: number[] }).tokens;
        },
        stepTotals: () => Promise.resolve({ steps: ++numAsked, eventLoopCpuUs: 250 * numAsked }),
      }),
  };
}

const reference = { source: 'test', cases: [{ promptIds: [40], greedyIds: [40, 41, 42], margins: [5, 5, 0] }] };

async function compare(
  systems: Peer[],
  more: object,
  signal = new AbortController().signal,
  onLog: (line: string) => void = () => {},
) {
  let text = '';
  const json = join(folder, 'result.json');
  const options = benchCompareSchema.parse({ models: [modelPath], rounds: 2, maxForeignCores: 99, json, ...more });
  const io = { stdout: { write: (part: string) => void (text += part) }, stderr: { write: onLog }, signal, env: {} };
  const seams = { referenceOf: () => Promise.resolve(reference), roofline: () => null };
  const run = compareSystems(() => systems, options, io, seams);
  const status = await run.catch((error: unknown) => error);
  return { status, text, result: compareResultSchema.parse(JSON.parse(readFileSync(json, 'utf8'))) };
}

describe('bench compare', () => {
  it('measures systems in turn and relates them', async () => {
    const systems = [fakePeer('fast', '--ms-per-token', '0'), fakePeer('slow', '--ms-per-token', '200')];
    const { status, text, result } = await compare(systems, { scenarios: ['prefill-512', 'prefill-2048'] });
    expect(status).toBe(0);
    const order = result.models[0]!.samples.map(({ round, system, scenario }) => `${round} ${system} ${scenario}`);
    expect(order).toEqual([
      '0 fast prefill-512',
      '0 fast prefill-2048',
      '0 slow prefill-512',
      '0 slow prefill-2048',
      '1 slow prefill-512',
      '1 slow prefill-2048',
      '1 fast prefill-512',
      '1 fast prefill-2048',
    ]);
    expect(result).toMatchObject({ kind: 'compare', rounds: 2, isPartial: false });
    expect(result.models[0]).toMatchObject({ name: 'tiny', file: 'tiny.gguf', numRejected: 0 });
    expect(result.models[0]!.systems[0]!.check).toEqual({
      verdict: 'right',
      numPrompts: 1,
      numTokens: 2,
      difference: null,
    });
    const prefill = result.models[0]!.samples.find(({ system }) => system === 'slow')!;
    expect(prefill.value).toBeLessThanOrEqual(512 / 0.2);
    expect(prefill.eventLoopUsPerStep).toBe(250);
    expect(text).toMatch(/fast +slow +best peer +ratio/);
    expect(JSON.stringify(result)).not.toContain(folder);
  });

  it('marks a system that answers wrongly, measures it all the same, and ends with 1', async () => {
    const wrong = ['--ms-per-token', '0', '--wrong'];
    const systems = [
      fakePeer('ours', '--ms-per-token', '0'),
      fakePeer('liar', ...wrong),
      fakePeer('requantised', ...wrong),
    ];
    const { status, text, result } = await compare(systems, { rounds: 1, scenarios: ['prefill-512'] });
    expect(status).toBe(1);
    expect(text).toContain('liar: WRONG at prompt 0, step 0: 41 instead of 40');
    expect(text).toContain('requantised: not checked');
    expect(result.models[0]!.samples.map(({ system }) => system)).toEqual(['ours', 'liar', 'requantised']);
  });

  it('retries disturbed samples, then keeps the quietest, marked', async () => {
    const systems = [fakePeer('ours', '--ms-per-token', '0')];
    const more = { rounds: 1, scenarios: ['prefill-512'], maxForeignCores: -1, maxAttempts: 3 };
    const options = benchCompareSchema.safeParse(more);
    expect(options.success).toBe(false); // nobody can be asked to use less than no core
    const { result } = await compare(systems, { ...more, maxForeignCores: 0 });
    const [sample] = result.models[0]!.samples;
    // A machine without any other work at all may pass; then nothing was rejected.
    expect(result.models[0]!.numRejected).toBe(sample!.isDisturbed ? 2 : result.models[0]!.numRejected);
    expect(sample!.isDisturbed).toBe(sample!.foreignCores > 0);
  });

  it('reports what it has when a system does not start, with its output', async () => {
    const systems = [fakePeer('ours', '--ms-per-token', '0'), fakePeer('broken', '--fail')];
    const { status, text, result } = await compare(systems, { rounds: 1, scenarios: ['prefill-512'] });
    expect(String(status)).toMatch(/broken did not start.*no such model/s);
    expect(text).toMatch(/Ended early/);
    expect(result.isPartial).toBe(true);
  });

  it('leaves out a system that cannot serve the model, and says why', async () => {
    const refuses: Peer = {
      name: 'picky',
      prepare: () => Promise.reject(new XllmError('usage', 'it has no such format')),
    };
    const systems = [fakePeer('ours', '--ms-per-token', '0'), refuses];
    const { status, text, result } = await compare(systems, { rounds: 1, scenarios: ['prefill-512'] });
    expect(status).toBe(0);
    expect(result.models[0]?.skipped).toEqual([{ name: 'picky', reason: 'it has no such format' }]);
    expect(text).toContain('picky: left out: it has no such format');
  });

  it('measures closed loops in their steady state, and far-off peers once', async () => {
    const systems = [
      fakePeer('ours', '--ms-per-token', '1'),
      fakePeer('near', '--ms-per-token', '1'),
      fakePeer('far', '--ms-per-token', '20'),
    ];
    const more = { scenarios: ['closed-2'], sampleS: 6, rounds: 2 };
    const { result } = await compare(systems, more);
    const samples = result.models[0]!.samples;
    expect(samples.map(({ round, system }) => `${round} ${system}`).sort()).toEqual(
      '0 far,0 near,0 ours,1 near,1 ours'.split(','),
    );
    // Two sequences of 1 ms per token, 1,000 tokens a second each at most; they come 128 at once, which blurs the borders.
    const [ours] = samples;
    expect(ours!.value).toBeGreaterThan(0);
    expect(ours!.value).toBeLessThan(3000);
    expect(ours!.numWaves).toBe(4);
  });

  it('keeps the samples taken before an interrupt', async () => {
    const controller = new AbortController();
    const onLog = (line: string): void => {
      if (line.startsWith('round 1, prefill-512')) controller.abort();
    };
    const { status, result } = await compare(
      [fakePeer('ours', '--ms-per-token', '0')],
      { scenarios: ['prefill-512', 'prefill-2048'] },
      controller.signal,
      onLog,
    );
    expect(status).toBe(130);
    expect(result.isPartial).toBe(true);
    expect(result.models[0]!.samples).toHaveLength(1);
  });
});
