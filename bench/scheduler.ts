// Measures what a step costs the event loop: plan and commit of decoding sequences, without executing anything.
// Run: node bench/scheduler.ts [sequences] [context tokens]
import { ordinarySequence } from '../src/engine/scheduler/spec.ts';
import { median } from '../src/cli/bench/metrics.ts';
import { KvCache } from '../src/engine/kv/kv-cache.ts';
import type { StepOutput, StepPlan } from '../src/engine/scheduler/plan.ts';
import { greedyParams } from '../src/engine/scheduler/sampling-params.ts';
import { Scheduler } from '../src/engine/scheduler/scheduler.ts';

const numSequences = Number(process.argv[2] ?? 64);
const contextTokens = Number(process.argv[3] ?? 1024);
const numSteps = 512;
const blockTokens = 16;
const maxModelLen = contextTokens + 2 * numSteps;

function measure(isAsync: boolean, numRangeSlots: number): { planUs: number; commitUs: number } {
  const kv = new KvCache({
    groups: [
      { name: 'all', layers: [0], kind: { type: 'paged' }, numKvHeads: 1, keyDim: 64, valueDim: 64, element: 'f16' },
    ],
    numPages: [numSequences * Math.ceil(maxModelLen / blockTokens)],
    blockTokens,
    maxModelLen,
    maxStepTokens: 2048,
    numRangeSlots,
    maxMappings: 39_000,
  });
  const scheduler = new Scheduler({
    kv,
    limits: {
      maxNumSeqs: numSequences,
      maxNumBatchedTokens: 2048,
      maxNumOutputs: numSequences + 256,
      maxModelLen,
      maxQueueLen: numSequences,
      maxQueueMs: Number.POSITIVE_INFINITY,
      maxNumPartialPrefills: 4,
      maxLongPartialPrefills: 4,
      longPrefillThreshold: 1024,
    },
    policy: 'fcfs',
    edits: { needsTokens: () => false, editsFor: () => null },
    modelStopIds: [0],
    usesPrefixCache: true,
    digestSeed: { model: 'bench', numericsId: 'bench' },
  });
  for (let id = 0; id < numSequences; id++) {
    scheduler.add(
      {
        ...ordinarySequence,
        id,
        promptIds: Int32Array.from({ length: contextTokens }, (_, i) => 1 + ((id + i) % 1000)),
        params: { ...greedyParams, maxTokens: 2 * numSteps },
        seed: 1n,
      },
      0,
    );
  }
  let step = 0;
  const outputOf = (plan: StepPlan): StepOutput => ({
    stepId: plan.stepId,
    tokenIds: new Int32Array(plan.outputToken.length).fill(1 + (step++ % 1000)),
    logprobs: new Float32Array(plan.outputToken.length),
    topLogprobs: [],
    graphMode: 'full',
    computeMs: 1,
  });
  const planUs: number[] = [];
  const commitUs: number[] = [];
  const timed = <T>(samples: number[], call: () => T): T => {
    const start = performance.now();
    const result = call();
    samples.push((performance.now() - start) * 1000);
    return result;
  };
  let inFlight: StepPlan | null = null;
  while (planUs.length < numSteps) {
    const plan = timed(planUs, () => scheduler.plan(step));
    const done: StepPlan | null = isAsync ? inFlight : plan;
    if (done) timed(commitUs, () => scheduler.commit(done, outputOf(done), step));
    inFlight = plan;
    if (plan && plan.numTokens > numSequences) planUs.length = commitUs.length = 0;
  }
  return { planUs: median(planUs), commitUs: median(commitUs) };
}

for (const isAsync of [false, true]) {
  for (const numRangeSlots of [0, numSequences]) {
    const { planUs, commitUs } = measure(isAsync, numRangeSlots);
    const name = `${isAsync ? 'async' : 'sync '} ${numRangeSlots > 0 ? 'xtensor' : 'blocks '}`;
    console.log(`${name}  plan ${planUs.toFixed(1)} us  commit ${commitUs.toFixed(1)} us`);
  }
}
