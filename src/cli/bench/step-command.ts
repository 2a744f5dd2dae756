// Owns `xllm bench step`: what a step of a model takes, op by op, without HTTP.
import { writeFileSync } from 'node:fs';
import { toBinary } from '@bufbuild/protobuf';
import { monotonicClock } from '../../common/clock.ts';
import { StepBatchSchema } from '../../contract/generated/xllm_pb.js';
import { modelSettings } from '../../files/resolve/settings.ts';
import { greedyParams } from '../../engine/scheduler/sampling-params.ts';
import { ordinarySequence, type SequenceSpec } from '../../engine/scheduler/spec.ts';
import { StepMessage } from '../../engine/step/delta-codec.ts';
import { type LoadedEngine, loadEngine } from '../../engine/step/load-engine.ts';
import { ProgramExecutor } from '../../engine/step/program-executor.ts';
import { StepLoop } from '../../engine/step/step-loop.ts';
import { findModel } from '../model.ts';
import type { BenchIo } from './io.ts';
import { describeMachine, readCpuinfo, sourceCommit } from './machine.ts';
import { median } from './metrics.ts';
import { OpProfile } from './op-profile.ts';
import type { BenchStepOptions } from './step-options.ts';
import { type Cell, formatTable } from './table.ts';

interface StepFigures {
  readonly kind: 'decode' | 'prefill';
  readonly sequences: number;
  readonly tokens: number;
  readonly medianMs: number;
  readonly tokensPerS: number;
  /** On the event loop's thread: plan, inputs, start, results, commit, message. null: no two steps followed each other. */
  readonly eventLoopCpuUs: number | null;
  /** Op → milliseconds of a step; empty without `--profile`. */
  readonly opsMs: Readonly<Record<string, number>>;
}

const WARMUP_STEPS = 8;

export async function benchStep(options: BenchStepOptions, model: string | undefined, io: BenchIo): Promise<void> {
  const found = await findModel(model, options);
  const { sequences, context, steps, prefill } = options;
  const maxSequences = Math.max(...sequences);
  const maxPrefill = Math.max(...prefill);
  const maxModelLen = Math.max(context + steps + WARMUP_STEPS + 8, maxPrefill + 8);
  const engine = await loadEngine(
    {
      modelPath: found.path,
      modelName: found.name,
      dtype: 'auto',
      kernels: options.kernels,
      threads: options.threads,
      deterministic: false,
      maxModelLen,
      maxNumSeqs: maxSequences,
      maxNumBatchedTokens: Math.max(512, maxSequences),
      maxQueueLen: maxSequences,
      maxQueueWaitS: 0,
      maxNumPartialPrefills: 4,
      maxLongPartialPrefills: 4,
      longPrefillThreshold: 512,
      schedulingPolicy: 'fcfs',
      enablePrefixCaching: false,
      blockSize: 16,
      kvLayout: 'auto',
      instancesOnHost: 1,
      kvCacheDtype: options.kvCacheDtype,
      cacheFolder: modelSettings(io.env, { cacheFolder: options.cache }).cacheFolder,
      weightsCacheLimit: 0,
      weightsMemory: 'auto',
      perfMap: options.perfMap,
    },
    monotonicClock,
    (text) => io.stderr.write(`${text}\n`),
  );
  try {
    const runner = new Runner(engine, options);
    const figures: StepFigures[] = [];
    for (const count of sequences) figures.push(await runner.decode(count));
    for (const length of prefill) if (length > 0) figures.push(await runner.prefill(length));
    const isStyled = io.stdout.isTTY === true;
    io.stdout.write(formatTable(header, figures.map(rowOf), isStyled));
    if (options.profile) io.stdout.write(`\n${profileTable(figures, isStyled)}`);
    const machine = describeMachine(readCpuinfo());
    const result = { kind: 'step', date: new Date().toISOString(), commit: sourceCommit(), machine, model: found.name };
    if (options.json) writeFileSync(options.json, `${JSON.stringify({ ...result, options, figures }, null, 2)}\n`);
  } finally {
    await engine.close();
  }
}

const header = ['step', 'ms (median)', 'tokens/s', 'event loop us'];
const nameOf = ({ kind, sequences, tokens }: StepFigures) =>
  kind === 'decode' ? `decode ${sequences}` : `prefill ${tokens}`;
const rowOf = (figures: StepFigures): Cell[] => [
  nameOf(figures),
  figures.medianMs,
  figures.tokensPerS,
  figures.eventLoopCpuUs,
];

/** Milliseconds of each kind of op, a column per step. */
function profileTable(figures: readonly StepFigures[], isStyled: boolean): string {
  const labels = [...new Set(figures.flatMap(({ opsMs }) => Object.keys(opsMs)))];
  const rows = labels.map((label) => [label, ...figures.map(({ opsMs }) => opsMs[label] ?? null)]);
  return formatTable(['ms in', ...figures.map(nameOf)], rows, isStyled);
}

class Runner {
  readonly #engine: LoadedEngine;
  readonly #options: BenchStepOptions;
  #nextId = 1;

  constructor(engine: LoadedEngine, options: BenchStepOptions) {
    this.#engine = engine;
    this.#options = options;
  }

  async decode(sequences: number): Promise<StepFigures> {
    const { context, steps } = this.#options;
    const numTokens = WARMUP_STEPS + steps;
    return this.#measure('decode', sequences, sequences, context, numTokens, WARMUP_STEPS);
  }

  async prefill(tokens: number): Promise<StepFigures> {
    return this.#measure('prefill', 1, tokens, tokens, 1, 0);
  }

  /** Runs `sequences` prompts and the tokens after them; times steps of `stepTokens` tokens, but the first `skip`. */
  async #measure(
    kind: StepFigures['kind'],
    sequences: number,
    stepTokens: number,
    promptTokens: number,
    maxTokens: number,
    skip: number,
  ): Promise<StepFigures> {
    const { scheduler, executor } = this.#engine;
    const rounds = kind === 'prefill' ? 7 : 1;
    const profiled = this.#options.profile && executor instanceof ProgramExecutor ? executor : null;
    const profile = profiled && new OpProfile(profiled.programs);
    const stepMs: number[] = [];
    const cpuUs: number[] = [];
    for (let round = 0; round < rounds; round++) {
      let numSteps = 0;
      let promptMs = 0;
      let cpuAtStep = 0;
      const done = Promise.withResolvers<void>();
      const loop: StepLoop<ReturnType<typeof scheduler.commit>[number]> = new StepLoop({
        scheduler,
        executor,
        clock: monotonicClock,
        asyncScheduling: true,
        onFailure: (error) => done.reject(error),
        onCommit: (plan, output, updates) => {
          const message = new StepMessage();
          for (const update of updates) {
            message.add(update, { requestId: String(update.id), attempt: 0, choice: 0 }, false);
          }
          toBinary(StepBatchSchema, message.encode(plan.stepId));
          const loopCpuUs = loop.eventLoopCpuUs;
          const isTimed =
            kind === 'prefill' ? plan.numTokens > 1 : plan.numTokens === stepTokens && plan.numRows === stepTokens;
          if (isTimed && ++numSteps > skip) {
            promptMs += output.computeMs;
            // What the loop counted since the commit before: this step's share.
            if (cpuAtStep > 0) cpuUs.push(loopCpuUs - cpuAtStep);
            if (profiled?.lastProgram) profile?.add(profiled.lastProgram);
            if (kind === 'decode') {
              stepMs.push(output.computeMs);
              profile?.endSample();
            }
          }
          cpuAtStep = loopCpuUs;
          if (!scheduler.hasWork() || updates.some(({ finish }) => finish !== null)) done.resolve();
        },
      });
      const specs = Array.from({ length: sequences }, () => this.#spec(promptTokens, maxTokens));
      const ids = specs.map(({ id }) => id);
      for (const spec of specs) scheduler.add(spec, monotonicClock.nowMs());
      loop.wake();
      await done.promise;
      await loop.close();
      for (const id of ids) scheduler.abort(id);
      if (kind === 'prefill') {
        stepMs.push(promptMs);
        profile?.endSample();
      }
    }
    const medianMs = median(stepMs);
    return {
      kind,
      sequences,
      tokens: stepTokens,
      medianMs,
      tokensPerS: (1000 * stepTokens) / medianMs,
      eventLoopCpuUs: cpuUs.length > 0 ? median(cpuUs) : null,
      opsMs: profile?.medianMs() ?? {},
    };
  }

  #spec(promptTokens: number, maxTokens: number): SequenceSpec {
    const id = this.#nextId++;
    const { numIds } = this.#engine.model.config;
    return {
      ...ordinarySequence,
      id,
      promptIds: Int32Array.from({ length: promptTokens }, (_, i) => (id * 7919 + i * 104_729) % numIds),
      params: { ...greedyParams, maxTokens },
    };
  }
}
