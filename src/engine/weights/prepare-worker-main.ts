// Owns what a thread does that prepares weights: takes pieces or chunks until there are none, and says so.
import { readSync, writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { invariant, XllmError } from '../../common/errors.ts';
import { invalidFile } from '../../files/open-file.ts';
import type { Ggml } from '../ffi/ggml.ts';
import { TAG_BYTES, tagOf } from './cache/tag.ts';
import { createPieceTools, inputBytes, type PieceTools, preparePiece } from './prepare-piece.ts';
import type {
  Batch,
  BatchReply,
  FileChunk,
  PieceTarget,
  PrepareWorkerData,
  SourceFile,
  WorkerFailure,
} from './prepare-messages.ts';
import type { Piece } from './weight-plan.ts';

class TargetError extends Error {}

const port = parentPort;
invariant(port !== null, 'this module runs as a worker');
const { ggmlVariant } = workerData as PrepareWorkerData;

const reply = (message: BatchReply) => port.postMessage(message);

port.on('message', (batch: Batch) => {
  run(batch).then(
    () => reply({ kind: 'done' }),
    (error: unknown) => reply({ kind: 'failed', failure: failureOf(error) }),
  );
});

async function run(batch: Batch): Promise<void> {
  const { work } = batch;
  if (work.kind === 'digest') digestChunks(batch, work.chunks);
  else await preparePieces(batch, work.pieces, work.target);
}

function* taken<T>({ next }: Batch, items: readonly T[]): Generator<readonly [number, T]> {
  const counter = new Int32Array(next);
  for (;;) {
    const index = Atomics.add(counter, 0, 1);
    const item = items[index];
    if (item === undefined) return;
    yield [index, item];
  }
}

function putTag({ tags }: Batch, index: number, bytes: Uint8Array): void {
  if (tags) new Uint8Array(tags.bytes).set(tagOf(tags.key, bytes), index * TAG_BYTES);
}

function digestChunks(batch: Batch, chunks: readonly FileChunk[]): void {
  const buffer = new Uint8Array(Math.max(0, ...chunks.map(({ numBytes }) => numBytes)));
  for (const [index, { fileIndex, offset, numBytes }] of taken(batch, chunks)) {
    const piece = buffer.subarray(0, numBytes);
    readWhole(batch.files[fileIndex], piece, offset);
    putTag(batch, index, piece);
  }
}

async function preparePieces(batch: Batch, pieces: readonly Piece[], target: PieceTarget): Promise<void> {
  const tools = await toolsFor(pieces);
  const input = new Uint8Array(Math.max(0, ...pieces.map(inputBytes)));
  const scratch = new Uint8Array(target.kind === 'file' ? Math.max(0, ...pieces.map(({ numBytes }) => numBytes)) : 0);
  const memory =
    target.kind === 'memory' ? (await import('../ffi/koffi.ts')).viewMemory(target.address, target.numBytes) : null;
  for (const [index, piece] of taken(batch, pieces)) {
    const { offset, numBytes } = piece;
    const output = memory ? new Uint8Array(memory, offset, numBytes) : scratch.subarray(0, numBytes);
    // A piece that is copied is read into its place.
    const bytes = piece.kind === 'copy' ? output : input.subarray(0, inputBytes(piece));
    readPiece(batch.files, piece, bytes);
    if (piece.kind !== 'copy') {
      if (!memory) output.fill(0);
      preparePiece(piece, bytes, output, tools);
    }
    putTag(batch, index, output);
    if (target.kind === 'file') writeWhole(target.fd, output, target.start + offset);
    reply({ kind: 'progress', numBytes });
  }
}

/** ggml is loaded only where it is needed: its bindings are a few MB in each thread. */
async function toolsFor(pieces: readonly Piece[]): Promise<PieceTools> {
  const needsGgml = pieces.some(({ dtype, target }) => dtype !== target);
  const ggml: Ggml | null = needsGgml ? (await import('../ffi/ggml.ts')).openGgml(ggmlVariant) : null;
  return createPieceTools(() => {
    invariant(ggml, 'nothing is converted');
    return ggml;
  });
}

function readPiece(files: readonly SourceFile[], { ranges }: Piece, target: Uint8Array): void {
  let at = 0;
  for (const { tensor, offset, numBytes } of ranges) {
    readWhole(files[tensor.fileIndex], target.subarray(at, at + numBytes), tensor.byteOffset + offset);
    at += numBytes;
  }
}

function readWhole(file: SourceFile | undefined, target: Uint8Array, position: number): void {
  invariant(file, 'a piece names one of the files');
  for (let done = 0; done < target.length; ) {
    const numBytes = readSync(file.fd, target, done, target.length - done, position + done);
    if (numBytes === 0) throw invalidFile(file.path, 'ends early: it has shrunk', position + done);
    done += numBytes;
  }
}

function writeWhole(fd: number, bytes: Uint8Array, position: number): void {
  try {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(fd, bytes, done, bytes.length - done, position + done);
    }
  } catch (cause) {
    throw new TargetError((cause as Error).message, { cause });
  }
}

function failureOf(error: unknown): WorkerFailure {
  const { message, stack } = error as Error;
  if (error instanceof XllmError) return { code: error.code, isTarget: false, message };
  if (error instanceof TargetError) return { code: null, isTarget: true, message };
  return { code: null, isTarget: false, message: stack ?? message };
}
