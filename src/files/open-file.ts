// Owns opening weight files: only regular files, sizes known from the start, every fault named with file and offset.
import { closeSync, fstatSync, openSync, read, statSync } from 'node:fs';
import { promisify } from 'node:util';
import { invariant, XllmError } from '../common/errors.ts';
import type { OpenFile, TensorFiles, TensorInfo } from './weights-file.ts';

const readAt = promisify(read);

/** One system call reads at most this much; Linux itself stops at 2 GiB. */
const maxReadBytes = 1 << 30;

/** `offset` is where in the file the fault lies, where there is such a place. */
export function invalidFile(path: string, what: string, offset?: number, cause?: unknown): XllmError {
  const where = offset === undefined ? '' : ` (at byte ${offset})`;
  return new XllmError('model_file_invalid', `${path}: ${what}${where}`, { cause });
}

/** Throws XllmError model_unavailable where there is nothing, model_file_invalid where there is no regular file. */
export function openFile(path: string): OpenFile {
  let fd: number;
  try {
    // Asked before opening: opening a pipe would wait for a writer.
    if (!statSync(path).isFile()) throw invalidFile(path, 'is not a regular file');
    fd = openSync(path, 'r');
  } catch (error) {
    if (error instanceof XllmError) throw error;
    throw new XllmError('model_unavailable', `${path}: cannot be opened: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return { path, numBytes: fstatSync(fd).size, fd };
}

/** The tensors of a set of open files; owns their descriptors. */
export class TensorFileSet implements TensorFiles {
  readonly files: readonly OpenFile[];
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  #closed = false;

  constructor(files: readonly OpenFile[], tensors: ReadonlyMap<string, TensorInfo>) {
    this.files = files;
    this.tensors = tensors;
  }

  async read(tensor: string | TensorInfo, target: Uint8Array, offset = 0): Promise<void> {
    invariant(!this.#closed, 'read after close');
    const info = typeof tensor === 'string' ? this.#named(tensor) : tensor;
    invariant(
      offset >= 0 && offset + target.byteLength <= info.numBytes,
      `bytes ${offset} to ${offset + target.byteLength} of ${info.name}, which has ${info.numBytes}`,
    );
    const file = this.files[info.fileIndex];
    invariant(file !== undefined, `file ${info.fileIndex} of ${info.name}`);
    let done = 0;
    while (done < target.byteLength) {
      const wanted = Math.min(target.byteLength - done, maxReadBytes);
      const position = info.byteOffset + offset + done;
      const { bytesRead } = await readAt(file.fd, target, done, wanted, position);
      if (bytesRead === 0) throw invalidFile(file.path, `ends inside ${info.name}: it has shrunk`, position);
      done += bytesRead;
    }
  }

  #named(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (info !== undefined) return info;
    const path = this.files.map((file) => file.path).join(', ');
    throw invalidFile(path, `has no tensor ${name}`);
  }

  /** Safe to call twice. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const file of this.files) closeSync(file.fd);
  }
}

/** Where one tensor's data ought to lie, checked against its file and its neighbours. */
export function checkLayout(file: OpenFile, tensors: Iterable<TensorInfo>): void {
  const byPlace = [...tensors].filter((t) => t.numBytes > 0).sort((a, b) => a.byteOffset - b.byteOffset);
  let previous: TensorInfo | undefined;
  for (const tensor of byPlace) {
    const end = tensor.byteOffset + tensor.numBytes;
    if (end > file.numBytes) {
      const missing = `${tensor.name} needs bytes up to ${end}, the file has ${file.numBytes}: is it truncated?`;
      throw invalidFile(file.path, missing, tensor.byteOffset);
    }
    if (previous !== undefined && previous.byteOffset + previous.numBytes > tensor.byteOffset) {
      throw invalidFile(file.path, `${previous.name} and ${tensor.name} overlap`, tensor.byteOffset);
    }
    previous = tensor;
  }
}
