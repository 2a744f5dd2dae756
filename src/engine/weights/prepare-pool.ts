// Owns the threads that prepare weights: as many as there are cores, for as long as there is work.
import { getCompileCacheDir } from 'node:module';
import { dirname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { entryUrl } from '../../common/entry.ts';
import { XllmError } from '../../common/errors.ts';
import { TAG_BYTES } from './cache/tag.ts';
import type { Batch, BatchReply, PrepareWorkerData, SourceFile, Work, WorkerFailure } from './prepare-messages.ts';

/** The target of pieces could not be written: the disk is full, or failed. */
export class TargetUnwritable extends Error {}

export class PreparePool {
  readonly #workers: readonly Worker[];
  readonly #files: readonly SourceFile[];

  constructor(files: readonly SourceFile[], numWorkers: number, ggmlVariant: string) {
    const cacheFolder = getCompileCacheDir();
    const workerData: PrepareWorkerData = {
      ggmlVariant,
      // The folder ends in a part for this version of Node, which enabling adds again.
      compileCacheFolder: cacheFolder === undefined ? undefined : dirname(cacheFolder),
    };
    this.#files = files.map(({ path, fd }) => ({ path, fd }));
    this.#workers = Array.from({ length: numWorkers }, () => {
      // Little is allocated on these heaps; a small young generation keeps them from growing before they are cleaned.
      const worker = new Worker(entryUrl(import.meta.url, './prepare-worker.ts'), {
        workerData,
        resourceLimits: { maxYoungGenerationSizeMb: 4 },
      });
      // Every batch listens for itself; without a listener an error in between would end the process.
      worker.on('error', () => {});
      worker.setMaxListeners(0);
      return worker;
    });
  }

  /**
   * Does all of the work, and resolves with its tags if there is a key. Rejects with the first failure: the XllmError of
   * a file, or TargetUnwritable; the pool is of no use afterwards.
   */
  async run(work: Work, key: Uint8Array | null, onProgress: (numBytes: number) => void = () => {}): Promise<Buffer> {
    const numItems = work.kind === 'digest' ? work.chunks.length : work.pieces.length;
    const bytes = new SharedArrayBuffer(key ? numItems * TAG_BYTES : 0);
    const batch: Batch = {
      work,
      files: this.#files,
      next: new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT),
      tags: key ? { key, bytes } : null,
    };
    await Promise.all(this.#workers.map((worker) => runOn(worker, batch, onProgress)));
    return Buffer.from(bytes);
  }

  /** Resolves when no thread is left. */
  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

function runOn(worker: Worker, batch: Batch, onProgress: (numBytes: number) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const stopListening = () => {
      worker.off('message', onMessage).off('error', onError).off('exit', onExit);
    };
    const onMessage = (message: BatchReply) => {
      if (message.kind === 'progress') {
        onProgress(message.numBytes);
        return;
      }
      stopListening();
      if (message.kind === 'done') resolve();
      else reject(errorOf(message.failure));
    };
    const onError = (error: unknown) => {
      stopListening();
      reject(error as Error);
    };
    const onExit = () => onError(new Error('a thread that prepares weights ended'));
    worker.on('message', onMessage).on('error', onError).on('exit', onExit);
    worker.postMessage(batch);
  });
}

function errorOf({ code, isTarget, message }: WorkerFailure): Error {
  if (code !== null) return new XllmError(code, message);
  return isTarget ? new TargetUnwritable(message) : new Error(message);
}
