// Owns worker threads that answer calls one at a time: a queue, a time limit per call, and new threads for lost ones.
import { Worker } from 'node:worker_threads';
import { invariant, XllmError } from '../../common/errors.ts';
import type { Sent, SentError } from './worker-messages.ts';

export interface WorkerPoolOptions {
  readonly entry: URL;
  readonly workerData: unknown;
  readonly numWorkers: number;
  /** For one call, once a worker has it. */
  readonly maxCallMs: number;
  readonly maxStartMs: number;
  /** Heap of one worker. */
  readonly maxHeapMb: number;
}

interface Job<Call, Result> {
  readonly call: Call;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: XllmError) => void;
  /** What to say when it takes too long or ends its worker. */
  readonly failure: (why: string) => XllmError;
}

/** A thread's place. A lost thread's place is filled again when there is work for it. */
interface Seat<Call, Result> {
  worker: Worker | null;
  job: Job<Call, Result> | null;
}

/**
 * Each worker gets one call at a time, so that a call that ends its worker takes no other with it. `Ready` is the first
 * message of every worker, `Result` the answer to each call.
 */
export class WorkerPool<Call, Result, Ready> {
  readonly #options: WorkerPoolOptions;
  readonly #seats: Seat<Call, Result>[];
  readonly #queue: Job<Call, Result>[] = [];
  #isClosed = false;

  private constructor(options: WorkerPoolOptions) {
    this.#options = options;
    this.#seats = Array.from({ length: options.numWorkers }, () => ({ worker: null, job: null }));
  }

  /** Starts all workers. Rejects with the XllmError that the first one to fail sent, leaving no thread behind. */
  static async start<Call, Result, Ready>(
    options: WorkerPoolOptions,
  ): Promise<{ readonly pool: WorkerPool<Call, Result, Ready>; readonly ready: Ready }> {
    invariant(options.numWorkers > 0, 'a pool has workers');
    const pool = new WorkerPool<Call, Result, Ready>(options);
    try {
      const [ready] = await Promise.all(pool.#seats.map((seat) => pool.#fill(seat)));
      return { pool, ready: ready as Ready };
    } catch (error) {
      await pool.close();
      throw error;
    }
  }

  /** Rejects with the worker's XllmError, or with `failure` of why there is no answer. */
  call(call: Call, failure: (why: string) => XllmError): Promise<Result> {
    if (this.#isClosed) return Promise.reject(stopping());
    return new Promise((resolve, reject) => {
      this.#queue.push({ call, resolve, reject, failure });
      this.#dispatch();
    });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const job of this.#queue.splice(0)) job.reject(stopping());
    const ends = this.#seats.map(async (seat) => {
      seat.job?.reject(stopping());
      await seat.worker?.terminate();
    });
    await Promise.all(ends);
  }

  #dispatch(): void {
    for (const seat of this.#seats) {
      if (this.#queue.length === 0) return;
      if (seat.job !== null) continue;
      const job = this.#queue.shift();
      if (job === undefined) return;
      seat.job = job;
      this.#run(seat, job)
        .then(job.resolve, job.reject)
        .finally(() => {
          if (seat.job === job) seat.job = null;
          this.#dispatch();
        });
    }
  }

  async #run(seat: Seat<Call, Result>, job: Job<Call, Result>): Promise<Result> {
    if (seat.worker === null) await this.#fill(seat);
    const { worker } = seat;
    if (worker === null) throw stopping();
    try {
      worker.postMessage(job.call);
    } catch (error) {
      // Data nested deeper than can be copied to a thread.
      throw job.failure((error as Error).message);
    }
    return await this.#nextMessage<Result>(seat, worker, this.#options.maxCallMs, job.failure);
  }

  async #fill(seat: Seat<Call, Result>): Promise<Ready> {
    if (this.#isClosed) throw stopping();
    const { entry, workerData, maxHeapMb, maxStartMs } = this.#options;
    const worker = new Worker(entry, { workerData, resourceLimits: { maxOldGenerationSizeMb: maxHeapMb } });
    seat.worker = worker;
    // Whenever it ends, its seat is free; without a listener an error would end the process.
    worker.on('error', () => this.#abandon(seat, worker));
    worker.on('exit', () => this.#abandon(seat, worker));
    try {
      return await this.#nextMessage<Ready>(seat, worker, maxStartMs, (why) => {
        return new XllmError('internal_error', `a text worker could not start: ${why}`);
      });
    } catch (error) {
      this.#abandon(seat, worker);
      throw error;
    }
  }

  /** The worker's next message; one that sends none in time is abandoned. */
  #nextMessage<T>(
    seat: Seat<Call, Result>,
    worker: Worker,
    limitMs: number,
    failure: (why: string) => XllmError,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const onMessage = (sent: Sent<T>) => {
        stopWaiting();
        if (sent.ok) resolve(sent.value);
        else reject(receivedError(sent.error));
      };
      const lose = (why: string) => {
        stopWaiting();
        this.#abandon(seat, worker);
        reject(this.#isClosed ? stopping() : failure(why));
      };
      const onError = (error: unknown) => lose(isOutOfMemory(error) ? 'it needed too much memory' : String(error));
      const onExit = () => lose('its thread ended');
      const timer = setTimeout(() => lose(`it took longer than ${limitMs} ms`), limitMs);
      const stopWaiting = () => {
        clearTimeout(timer);
        worker.off('message', onMessage).off('error', onError).off('exit', onExit);
      };
      worker.on('message', onMessage).on('error', onError).on('exit', onExit);
    });
  }

  #abandon(seat: Seat<Call, Result>, worker: Worker): void {
    if (seat.worker === worker) seat.worker = null;
    void worker.terminate();
  }
}

const stopping = () => new XllmError('engine_unavailable', 'the server is stopping');

function receivedError({ code, message, param }: SentError): XllmError {
  return new XllmError(code, message, param === undefined ? {} : { param });
}

const isOutOfMemory = (error: unknown) => (error as { readonly code?: string }).code === 'ERR_WORKER_OUT_OF_MEMORY';
