// Owns the life of an engine child process: start, restart with back-off, kill when stuck, stop in good order.
import type { ChildProcess } from 'node:child_process';

const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 30_000;
/** A life this long means that the next failure is a new one. */
const HEALTHY_LIFE_MS = 60_000;

/** Milliseconds to wait before start number `failures` + 1 in a row. */
export function restartDelayMs(failures: number): number {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** (failures - 1));
}

export interface SupervisorEvents {
  /** The child is gone; `restartMs` says when the next starts, or null when it will not. */
  onExit(how: string, restartMs: number | null): void;
}

export class Supervisor {
  readonly #spawn: () => ChildProcess;
  readonly #events: SupervisorEvents;
  #child: ChildProcess | null = null;
  #timer: NodeJS.Timeout | null = null;
  #startedMs = 0;
  #failures = 0;
  #numRestarts = 0;
  #everReady = false;
  #stopping = false;
  #isRetired = false;

  constructor(spawn: () => ChildProcess, events: SupervisorEvents) {
    this.#spawn = spawn;
    this.#events = events;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get numRestarts(): number {
    return this.#numRestarts;
  }

  start(): void {
    this.#timer = null;
    this.#startedMs = performance.now();
    const child = this.#spawn();
    this.#child = child;
    // A failed write to a dead child's stdin is no news: its exit is.
    child.stdin?.on('error', () => {});
    child.once('error', (error) => this.#exited(child, error.message));
    child.once('exit', (code, signal) =>
      this.#exited(child, signal ? `was killed by ${signal}` : `exited with code ${code}`),
    );
  }

  /** From the first time on, an exit is followed by a restart; before it, the start itself has failed. */
  markReady(): void {
    this.#everReady = true;
  }

  /** The next exit is the last: the child has been told to end by itself. */
  retire(): void {
    this.#isRetired = true;
  }

  /** For a child that makes no progress: its exit brings the next. */
  kill(): void {
    this.#child?.kill('SIGKILL');
  }

  /** SIGTERM, then SIGKILL after `graceMs`. Resolves when the child is gone. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    if (this.#timer) clearTimeout(this.#timer);
    const child = this.#child;
    if (!child) return;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
    await gone;
    clearTimeout(timer);
  }

  #exited(child: ChildProcess, how: string): void {
    if (this.#child !== child) return;
    this.#child = null;
    if (this.#stopping || this.#isRetired || !this.#everReady) {
      this.#events.onExit(how, null);
      return;
    }
    if (performance.now() - this.#startedMs > HEALTHY_LIFE_MS) this.#failures = 0;
    this.#failures++;
    this.#numRestarts++;
    const delayMs = restartDelayMs(this.#failures);
    this.#timer = setTimeout(() => this.start(), delayMs);
    this.#events.onExit(how, delayMs);
  }
}
