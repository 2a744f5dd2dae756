// Owns the measurement of one kernel: its ops as a step program on a team of threads, and ggml's graph, in turn.
import { invariant } from '../../../common/errors.ts';
import type { Ggml } from '../../../engine/ffi/ggml.ts';
import { ROWS_BYTES, rowsField } from '../../../engine/jit/kernels/op.ts';
import { allocateNative, type NativeMemory } from '../../../engine/ffi/memory.ts';
import type { Isa } from '../../../engine/jit/cpu-features.ts';
import { Activations } from '../../../engine/program/activations.ts';
import { buildPrograms, type StepProgram } from '../../../engine/program/program-builder.ts';
import { ThreadTeam } from '../../../engine/program/thread-team.ts';
import { ComputePool } from '../../../engine/tensor/compute.ts';
import { Graph } from '../../../engine/tensor/graph.ts';
import { DATA_BYTES, fillWithNumbers, type KernelCase, MAX_TENSORS, type Workplace } from './case.ts';

export interface MeasurerOptions {
  readonly isa: Isa;
  readonly numThreads: number;
  /** null: it is not measured. */
  readonly ggml: Ggml | null;
  /** Turns of each, at least; short work gets as many as fit into ROUND_MS times this. */
  readonly rounds: number;
}

/** Least time of the work once. */
export interface Measured {
  readonly us: number;
  readonly ggmlUs: number | null;
}

const ROUND_MS = 10;
/** Threads of one may still poll in the first run of the other, for about a millisecond: short ones come in threes. */
const RUNS_PER_TURN = 3;
/** Of a graph that has no work to speak of, per round. */
const EMPTY_RUNS = 50;

/** Does the work `times` times. */
interface Run {
  readonly once: () => void;
  readonly times: number;
}

export class Measurer implements Disposable {
  readonly #options: MeasurerOptions;
  readonly #data: NativeMemory;
  readonly #pool: ComputePool | null;
  /** What it takes to wake ggml's threads, which do not poll: they would do it in our runs. */
  readonly #wakingUs: number;

  constructor(options: MeasurerOptions) {
    const { numThreads, ggml, rounds } = options;
    this.#options = options;
    this.#data = allocateNative(DATA_BYTES);
    fillWithNumbers(this.#data);
    this.#pool = ggml && new ComputePool(ggml, { numThreads, polls: false });
    this.#wakingUs = ggml && this.#pool ? wakingUs(ggml, this.#pool, rounds) : 0;
  }

  [Symbol.dispose](): void {
    this.#pool?.close();
    this.#data.free();
  }

  measure(of: KernelCase): Measured {
    const { isa, numThreads, ggml } = this.#options;
    const memory = new Activations();
    const rows = memory.memory(ROWS_BYTES);
    // No op runs when it changes.
    const step = new BigInt64Array(rows.buffer, 0, ROWS_BYTES / 8);
    const place: Workplace = { isa, numThreads, data: this.#data, memory, rows: rows.address };
    const set = buildPrograms([of.ops(place)]);
    const [program] = set.programs;
    invariant(program, 'one list, one program');
    const team = new ThreadTeam({ numThreads, polls: true });
    const graph = ggml && of.ggml && new Graph(ggml, MAX_TENSORS * (of.ggml.times + 1));
    try {
      const ours = programRun(program, team, step);
      const withRows = (count: number): Run => ({
        ...ours,
        once: () => {
          step[rowsField.count / 8] = BigInt(count);
          ours.once();
        },
      });
      const theirs = graph && this.#graphRun(of, graph, place);
      // Ops that have no rows are passed over: what remains is starting a program and hearing of its end.
      const [starting, best, ggmlBest] = this.#takeTurns([withRows(0), withRows(of.rows), ...(theirs ? [theirs] : [])]);
      invariant(starting !== undefined && best !== undefined, 'a best run of each');
      return {
        us: (best - starting) / ours.times,
        ggmlUs: theirs && ggmlBest !== undefined ? (ggmlBest - this.#wakingUs) / theirs.times : null,
      };
    } finally {
      team.close();
      graph?.free();
      set.free();
      memory.free();
    }
  }

  /** Least microseconds of each. */
  #takeTurns(runs: readonly Run[]): number[] {
    const { rounds } = this.#options;
    const best = runs.map(() => Number.POSITIVE_INFINITY);
    const endMs = performance.now() + rounds * ROUND_MS * runs.length;
    for (let round = 0; round < rounds || performance.now() < endMs; round++) {
      for (const [i, { once }] of runs.entries()) best[i] = Math.min(best[i]!, leastUs(once, RUNS_PER_TURN));
    }
    return best;
  }

  #graphRun({ ggml }: KernelCase, graph: Graph, place: Workplace): Run {
    const pool = this.#pool;
    invariant(pool && ggml, 'ggml is measured');
    const add = ggml.start(graph, place);
    for (let time = 0; time < ggml.times; time++) add(time);
    const placed = graph.finish([]);
    placed.place(place.memory.memory(placed.numBytes).address);
    const workBytes = pool.workBytes(graph.handle);
    return { once: () => pool.runSync(graph.handle, workBytes), times: ggml.times };
  }
}

/** `step`: what stands at the rows of all its ops (`rowsField`). */
function programRun(program: StepProgram, team: ThreadTeam, step: BigInt64Array): Run {
  const once = () => {
    step[rowsField.generation / 8] = BigInt(team.nextGeneration);
    team.runSync(program.address);
  };
  return { once, times: program.labels.length };
}

/** Of a graph with hardly any work. */
function wakingUs(ggml: Ggml, pool: ComputePool, rounds: number): number {
  const memory = new Activations();
  const graph = new Graph(ggml, MAX_TENSORS);
  try {
    const x = graph.leaf('F32', [1, 16], memory.memory(64).address);
    graph.add(ggml.rmsNorm(graph.ctx, x.address, 1e-6), 'F32', [1, 16]);
    graph.finish([]).place(memory.memory(64).address);
    return leastUs(() => pool.runSync(graph.handle), EMPTY_RUNS * rounds);
  } finally {
    graph.free();
    memory.free();
  }
}

/** Of so many runs, or of one where it is long. */
function leastUs(once: () => void, numRuns: number): number {
  let leastMs = Number.POSITIVE_INFINITY;
  for (let i = 0; i < numRuns && (i === 0 || leastMs < ROUND_MS); i++) {
    const startMs = performance.now();
    once();
    leastMs = Math.min(leastMs, performance.now() - startMs);
  }
  return 1000 * leastMs;
}
