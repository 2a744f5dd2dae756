// Owns how many threads a step uses (pure): all of them, or fewer while other processes hold the cores.
//
// Threads of a graph wait for one another after every node, spinning. When a neighbour takes one core, that wait lasts
// the neighbour's time slice: measured on two cores under foreign load, two threads were 13 times slower than one. So
// the governor compares: now and then a few steps run with another number of threads, and the faster number stays.

const PROBE_STEPS = 3;
const FIRST_INTERVAL = 16;
const MAX_INTERVAL = 1024;
/** A probe must be this much faster to win: noise alone must not flip the choice. */
const WIN_RATIO = 0.85;
/** A step this much slower than its like: ask at once whether fewer threads do better. */
const ALARM_RATIO = 3;
const SMOOTHING = 0.2;

export class ThreadGovernor {
  /** From all threads down to one, by halves. */
  readonly #levels: readonly number[];
  #level = 0;
  /** Level under test, or null. */
  #probe: number | null = null;
  #probeRatios: number[] = [];
  #interval = FIRST_INTERVAL;
  #stepsToProbe = FIRST_INTERVAL;
  #probesDown = true;
  /** Graph → milliseconds at the current level, smoothed. */
  #usualMs = new Map<string, number>();

  constructor(maxThreads: number) {
    const levels = [maxThreads];
    while ((levels.at(-1) ?? 1) > 1) levels.push(Math.ceil((levels.at(-1) ?? 1) / 2));
    this.#levels = levels;
  }

  /** Threads for the next step of this graph. A graph that is new at the current level is never a probe. */
  choose(graph: string): number {
    if (this.#levels.length > 1 && this.#probe === null && this.#stepsToProbe <= 0 && this.#usualMs.has(graph))
      this.#startProbe();
    const level = this.#probe !== null && this.#usualMs.has(graph) ? this.#probe : this.#level;
    return this.#levels[level] ?? 1;
  }

  /** What the step that was last chosen for took. */
  observe(graph: string, numThreads: number, ms: number): void {
    const usualMs = this.#usualMs.get(graph);
    if (this.#probe !== null && numThreads === this.#levels[this.#probe] && usualMs !== undefined) {
      this.#probeRatios.push(ms / usualMs);
      if (this.#probeRatios.length === PROBE_STEPS) this.#endProbe(this.#probe);
      return;
    }
    this.#stepsToProbe--;
    if (usualMs === undefined) {
      this.#usualMs.set(graph, ms);
      return;
    }
    if (ms > ALARM_RATIO * usualMs && this.#level + 1 < this.#levels.length) {
      this.#stepsToProbe = 0;
      this.#probesDown = true;
    }
    this.#usualMs.set(graph, usualMs + SMOOTHING * (ms - usualMs));
  }

  #startProbe(): void {
    const down = this.#level + 1;
    const up = this.#level - 1;
    this.#probe = up < 0 || (this.#probesDown && down < this.#levels.length) ? down : up;
    this.#probesDown = !this.#probesDown;
    this.#probeRatios = [];
  }

  #endProbe(level: number): void {
    const median = this.#probeRatios.sort((a, b) => a - b)[PROBE_STEPS >> 1] ?? 1;
    this.#probe = null;
    if (median < WIN_RATIO) {
      this.#level = level;
      this.#usualMs = new Map();
      this.#interval = FIRST_INTERVAL;
    } else {
      this.#interval = Math.min(MAX_INTERVAL, this.#interval * 2);
    }
    this.#stepsToProbe = this.#interval;
  }
}
