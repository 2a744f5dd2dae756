// Owns the check that a compared system answers rightly: its greedy tokens against a reference's, where that is sure.
import { existsSync, globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { completeGreedily, xllm } from './peers/xllm.ts';
import type { PreparedPeer, PrepareContext } from './peers/peer.ts';
import { startServer } from './peers/server.ts';
import { idPrompts } from './prompts.ts';
import { seededRandom, streamSeed } from './random.ts';
import type { CheckResult } from './compare-result.ts';

export interface ReferenceCase {
  readonly promptIds: readonly number[];
  readonly greedyIds: readonly number[];
  /** Best minus second-best logit of each step: how sure the choice is. */
  readonly margins: readonly number[];
}

export interface Reference {
  /** Where it comes from, for the reader. */
  readonly source: string;
  readonly cases: readonly ReferenceCase[];
}

/** Below this, 8-bit activations alone can turn a choice. */
const SURE_MARGIN = 1;

/**
 * Steps that a right system must reproduce: up to the first unsure one, and before the first stop token, where some
 * systems end and others bar it.
 */
export function numSureSteps(reference: ReferenceCase, stopIds: ReadonlySet<number>): number {
  const end = reference.greedyIds.findIndex(
    (id, step) => stopIds.has(id) || (reference.margins[step] ?? 0) < SURE_MARGIN,
  );
  return end === -1 ? reference.greedyIds.length : end;
}

/** Asks for every case with at least one sure step. */
export async function checkPeer(
  reference: Reference,
  stopIds: ReadonlySet<number>,
  ask: (promptIds: readonly number[], maxTokens: number) => Promise<readonly number[]>,
): Promise<CheckResult> {
  let numPrompts = 0;
  let numTokens = 0;
  for (const [index, one] of reference.cases.entries()) {
    const numSteps = numSureSteps(one, stopIds);
    if (numSteps === 0) continue;
    const got = await ask(one.promptIds, numSteps);
    numPrompts++;
    for (let step = 0; step < numSteps; step++) {
      if (got[step] === one.greedyIds[step]) {
        numTokens++;
        continue;
      }
      const difference = { prompt: index, step, expected: one.greedyIds[step] ?? -1, got: got[step] ?? null };
      return { verdict: 'wrong', numPrompts, numTokens, difference };
    }
  }
  return { verdict: numTokens > 0 ? 'right' : 'unchecked', numPrompts, numTokens, difference: null };
}

interface GoldenFile {
  readonly source?: { readonly gguf_sha256?: string };
  readonly prompts?: readonly {
    readonly prompt_ids: readonly number[];
    readonly greedy_ids: readonly number[];
    readonly greedy_gaps: readonly number[];
  }[];
}

/** The recorded reference for a model file, where the source tree has one. */
export function goldenReference(sha256: string): Reference | null {
  const folder = fileURLToPath(new URL('../../../test/fixtures/golden/', import.meta.url));
  for (const path of existsSync(folder) ? globSync(`${folder}*/expected.json`) : []) {
    const file = JSON.parse(readFileSync(path, 'utf8')) as GoldenFile;
    if (file.source?.gguf_sha256 !== sha256 || file.prompts === undefined) continue;
    const cases = file.prompts.map((prompt) => ({
      promptIds: prompt.prompt_ids,
      greedyIds: prompt.greedy_ids,
      margins: prompt.greedy_gaps,
    }));
    return { source: 'transformers, float32, on the dequantised weights', cases };
  }
  return null;
}

const OWN_CASES = { count: 8, promptTokens: 48, steps: 24 };

/** Greedy tokens and margins of our own float32 path, on random prompts: for weights that nobody else has run. */
export async function ownReference(context: PrepareContext, vocabSize: number, threads: number): Promise<Reference> {
  context.log('reference: running our float32 path …');
  const peer: PreparedPeer = await xllm('xllm float32', ['--dtype', 'float32']).prepare(context);
  await using server = await startServer(peer, { shape: 'batch', threads }, context.signal);
  const maker = idPrompts(seededRandom(streamSeed(0, 'reference')), vocabSize);
  const cases: ReferenceCase[] = [];
  for (let i = 0; i < OWN_CASES.count; i++) {
    const promptIds = maker.fresh(OWN_CASES.promptTokens) as readonly number[];
    const choice = await completeGreedily(server.url, promptIds, OWN_CASES.steps, true, context.signal);
    const top = choice.logprobs?.top_logprobs;
    if (!choice.token_ids || !top) throw new Error('the server returned no token_ids or logprobs');
    cases.push({ promptIds, greedyIds: choice.token_ids, margins: top.map(margin) });
  }
  return { source: "xllm's float32 path on the dequantised weights", cases };
}

function margin(top: Readonly<Record<string, number>>): number {
  const [best = 0, second = -Infinity] = Object.values(top).sort((a, b) => b - a);
  return best - second;
}
