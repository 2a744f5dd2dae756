// Owns bringing tensors from files into native memory: prepared on all cores, through the cache where there is one.
import { availableParallelism } from 'node:os';
import { XllmError } from '../../common/errors.ts';
import type { TensorFiles } from '../../files/weights-file.ts';
import type { Ggml } from '../ffi/ggml.ts';
import type { Address } from '../ffi/koffi.ts';
import { SystemError, trimHeap } from '../ffi/libc.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { TensorType } from '../tensor/dtype.ts';
import { loadThroughCache, minCachedBytes, type WeightCacheOptions } from './cache/cached-weights.ts';
import { DamagedFile } from './cache/place-weights.ts';
import type { PieceTarget } from './prepare-messages.ts';
import { createPieceTools, inputBytes, preparePiece } from './prepare-piece.ts';
import { PreparePool, TargetUnwritable } from './prepare-pool.ts';
import { planWeightMemory, type WeightPlan, type WeightRequest } from './weight-plan.ts';

export interface Weight {
  readonly type: TensorType;
  readonly shape: readonly number[];
  readonly address: Address;
}

/** What loading took, for people and for tests. */
export interface WeightPreparation {
  readonly source: 'cache' | 'file';
  /** How they lie in memory, and why. */
  readonly memory: string;
  /** They are pages of a file: the system counts them as available, though they are not to spare. */
  readonly isMapped: boolean;
  readonly numRowsPacked: number;
  readonly wallMs: number;
  /** Of all threads of the process. */
  readonly cpuMs: number;
  /** Resolves when the weights are cached, or are not to be. */
  readonly published: Promise<void>;
}

export interface LoadedWeights {
  /** In the order of the requests. */
  readonly weights: readonly Weight[];
  readonly numBytes: number;
  readonly preparation: WeightPreparation;
  /** No address may be used afterwards. */
  free(): void;
}

export interface LoadWeightsOptions {
  /** null, the default: packed weights are not cached. */
  readonly cache?: WeightCacheOptions | null;
  readonly numThreads?: number;
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
  readonly onWarning?: (text: string) => void;
}

/** What a thread is worth starting for. */
const bytesPerThread = 16 << 20;

interface Prepared {
  readonly memory: NativeMemory;
  readonly about: string;
  readonly isMapped: boolean;
  readonly source: 'cache' | 'file';
  readonly published: Promise<void>;
  free(): void;
}

/**
 * Loads all requests into one piece of memory. Throws XllmError out_of_memory when the system refuses it,
 * model_file_invalid when a file has shrunk.
 */
export async function loadWeights(
  ggml: Ggml,
  files: TensorFiles,
  requests: readonly WeightRequest[],
  options: LoadWeightsOptions = {},
): Promise<LoadedWeights> {
  const [startMs, startCpu] = [performance.now(), process.cpuUsage()];
  const plan = planWeightMemory(requests);
  const loader = new Loader(ggml, files, plan, options);
  const prepared = (await loader.throughCache(requests)) ?? (await loader.directly());
  // Threads leave tens of megabytes behind in malloc's arenas.
  if (loader.numRowsPacked > 0) trimHeap();
  const cpu = process.cpuUsage(startCpu);
  return {
    weights: plan.weights.map(({ type, shape, offset }) => ({
      type,
      shape,
      address: prepared.memory.address + offset,
    })),
    numBytes: plan.numBytes,
    preparation: {
      source: prepared.source,
      memory: prepared.about,
      isMapped: prepared.isMapped,
      numRowsPacked: loader.numRowsPacked,
      wallMs: performance.now() - startMs,
      cpuMs: (cpu.user + cpu.system) / 1_000,
      published: prepared.published,
    },
    free: () => prepared.free(),
  };
}

class Loader {
  numRowsPacked = 0;
  readonly #ggml: Ggml;
  readonly #files: TensorFiles;
  readonly #plan: WeightPlan;
  readonly #options: LoadWeightsOptions;

  constructor(ggml: Ggml, files: TensorFiles, plan: WeightPlan, options: LoadWeightsOptions) {
    this.#ggml = ggml;
    this.#files = files;
    this.#plan = plan;
    this.#options = options;
  }

  /** null: there is no cache, or nothing for it, or it cannot be used, which is a warning and no failure. */
  async throughCache(requests: readonly WeightRequest[]): Promise<Prepared | null> {
    const { cache, onWarning = () => {} } = this.#options;
    const isPacked = requests.some(({ packing }) => packing !== null);
    if (!cache || cache.limitBytes === 0 || !isPacked || this.#plan.numBytes < minCachedBytes) return null;
    let pool: PreparePool | null = null;
    const start = () => (pool ??= this.#startPool());
    try {
      const found = await loadThroughCache(this.#files.files, requests, this.#plan, cache, {
        digestChunks: (chunks, secret) => start().run({ kind: 'digest', chunks }, secret),
        preparePieces: (target, secret) => this.#prepareOn(start(), target, secret),
        onWarning,
      });
      if (!found) return null;
      const { placed, source, published, close } = found;
      const { memory, kind, reason } = placed;
      const about = `${kind}, ${reason}`;
      return { memory, about, isMapped: kind === 'mapped', source, published, free: close };
    } catch (error) {
      if (!isSystemFailure(error)) throw error;
      onWarning(`weights are not cached: ${error.message}`);
      return null;
    } finally {
      await (pool as PreparePool | null)?.close();
    }
  }

  async directly(): Promise<Prepared> {
    const { numBytes } = this.#plan;
    const memory = allocate(numBytes);
    try {
      if (numBytes < minCachedBytes) await this.#prepareHere(memory);
      else {
        const pool = this.#startPool();
        const target = { kind: 'memory', address: memory.address, numBytes: memory.numBytes } as const;
        try {
          await this.#prepareOn(pool, target, null);
        } finally {
          await pool.close();
        }
      }
    } catch (error) {
      memory.free();
      throw error;
    }
    const about = 'huge pages, not cached';
    const published = Promise.resolve();
    return { memory, about, isMapped: false, source: 'file', published, free: () => memory.free() };
  }

  #startPool(): PreparePool {
    const { numThreads = availableParallelism() } = this.#options;
    const numWorkers = Math.min(numThreads, Math.ceil(this.#plan.numBytes / bytesPerThread));
    return new PreparePool(this.#files.files, Math.max(1, numWorkers), this.#ggml.variant);
  }

  async #prepareOn(pool: PreparePool, target: PieceTarget, key: Uint8Array | null): Promise<Buffer> {
    const { pieces, numBytes } = this.#plan;
    this.#countRows();
    let done = 0;
    return await pool.run({ kind: 'prepare', pieces, target }, key, (bytes) => {
      done += bytes;
      this.#options.onProgress?.(done, numBytes);
    });
  }

  /** Small models: a thread would take longer to start. */
  async #prepareHere({ buffer }: NativeMemory): Promise<void> {
    const { pieces, numBytes } = this.#plan;
    this.#countRows();
    const tools = createPieceTools(() => this.#ggml);
    const input = new Uint8Array(Math.max(0, ...pieces.map(inputBytes)));
    for (const piece of pieces) {
      let at = 0;
      for (const range of piece.ranges) {
        await this.#files.read(range.tensor, input.subarray(at, at + range.numBytes), range.offset);
        at += range.numBytes;
      }
      preparePiece(piece, input.subarray(0, at), new Uint8Array(buffer, piece.offset, piece.numBytes), tools);
      this.#options.onProgress?.(piece.offset + piece.numBytes, numBytes);
    }
  }

  #countRows(): void {
    const packed = this.#plan.pieces.filter(({ kind }) => kind === 'pack');
    this.numRowsPacked += packed.reduce((sum, { numRows }) => sum + numRows, 0);
  }
}

/** What the cache's folder or disk may do to us. */
function isSystemFailure(error: unknown): error is Error {
  if (error instanceof SystemError || error instanceof TargetUnwritable || error instanceof DamagedFile) return true;
  return error instanceof Error && 'syscall' in error;
}

function allocate(numBytes: number): NativeMemory {
  try {
    return allocateNative(numBytes);
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    throw new XllmError('out_of_memory', `the weights need ${Math.ceil(numBytes / 2 ** 20)} MiB: ${cause.message}`, {
      cause,
    });
  }
}
