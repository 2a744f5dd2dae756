// Owns what passes between the event loop and the threads that prepare weights.
import type { ErrorCode } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import type { Piece } from './weight-plan.ts';

export interface PrepareWorkerData {
  /** ggml's CPU variant that the process uses. */
  readonly ggmlVariant: string;
  /** Where the process caches compiled code; undefined where it does not. */
  readonly compileCacheFolder: string | undefined;
}

/** A weight file, open in this process: descriptors hold for all its threads. */
export interface SourceFile {
  readonly path: string;
  readonly fd: number;
}

/** Where pieces are put: memory of this process, or a file from byte `start` on. */
export type PieceTarget =
  | { readonly kind: 'memory'; readonly address: Address; readonly numBytes: number }
  | { readonly kind: 'file'; readonly fd: number; readonly start: number };

export interface FileChunk {
  readonly fileIndex: number;
  readonly offset: number;
  readonly numBytes: number;
}

export type Work =
  | { readonly kind: 'prepare'; readonly pieces: readonly Piece[]; readonly target: PieceTarget }
  | { readonly kind: 'digest'; readonly chunks: readonly FileChunk[] };

/** Work that all threads share: each takes the next piece or chunk until there is none. */
export interface Batch {
  readonly work: Work;
  readonly files: readonly SourceFile[];
  /** One Int32: the next to be taken. */
  readonly next: SharedArrayBuffer;
  /** TAG_BYTES for each piece or chunk, under `key`; null: no tags are wanted. */
  readonly tags: { readonly key: Uint8Array; readonly bytes: SharedArrayBuffer } | null;
}

export type BatchReply =
  | { readonly kind: 'progress'; readonly numBytes: number }
  | { readonly kind: 'done' }
  | { readonly kind: 'failed'; readonly failure: WorkerFailure };

export interface WorkerFailure {
  /** Of an XllmError; null: `message` is a bug's stack, or that the target could not be written. */
  readonly code: ErrorCode | null;
  /** Whether the target could not be written. */
  readonly isTarget: boolean;
  readonly message: string;
}
