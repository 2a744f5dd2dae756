// Owns fetching one file: resumed where it was cut, checked against its checksum, in place only when whole.
import { mkdir, open, rename, rm, stat, statfs } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { basename, dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { XllmError } from '../../common/errors.ts';
import { type Checksum, hasChecksum } from './checksum.ts';
import { httpRequest } from './http-get.ts';
import type { FetchContext } from './settings.ts';

export interface DownloadSpec {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly target: string;
  readonly numBytes: number;
  readonly checksum: Checksum;
}

/** A cut connection or a busy server: the same request may work later. */
class Interruption extends Error {}

/**
 * Fetches `spec.url` into `spec.target`. What has arrived is kept beside it as `.part` and gone on with, now or by the
 * next run. The caller holds the lock on the folder. Throws XllmError model_unavailable.
 */
export async function downloadFile(spec: DownloadSpec, context: FetchContext): Promise<void> {
  // Named by content, so that parts of two revisions are never joined.
  const part = `${spec.target}.${spec.checksum.hex.slice(0, 12)}.part`;
  await mkdir(dirname(spec.target), { recursive: true });
  for (let round = 0; ; round++) {
    await receiveAll(spec, part, context);
    report(spec, context, 'checking', spec.numBytes);
    if (await hasChecksum(part, spec.numBytes, spec.checksum)) break;
    await rm(part);
    // The first time, what an earlier run left may be to blame.
    if (round === 1) {
      throw new XllmError(
        'model_unavailable',
        `${spec.url}: the content does not have the stated checksum ${spec.checksum.hex}; it was discarded`,
      );
    }
  }
  await rename(part, spec.target);
  report(spec, context, 'done', spec.numBytes);
}

/** Goes on until all bytes are there; gives up after several attempts that brought nothing. */
async function receiveAll(spec: DownloadSpec, part: string, context: FetchContext): Promise<void> {
  const delays = context.settings.retryDelaysMs;
  let numFailures = 0;
  for (;;) {
    const before = await sizeOf(part);
    if (before === spec.numBytes) return;
    if (before > spec.numBytes) await rm(part);
    await checkSpace(spec, before);
    try {
      await receive(spec, part, before > spec.numBytes ? 0 : before, context);
    } catch (error) {
      if (!(error instanceof Interruption)) throw error;
      numFailures = (await sizeOf(part)) > before ? 1 : numFailures + 1;
      const delayMs = delays[numFailures - 1];
      if (delayMs === undefined) {
        const have = `${await sizeOf(part)} of ${spec.numBytes} bytes are kept for the next attempt`;
        throw new XllmError('model_unavailable', `${spec.url}: ${error.message}; ${have}`, { cause: error });
      }
      await sleep(delayMs, undefined, { signal: context.signal });
    }
  }
}

/** One request, for what lies beyond `have` bytes. */
async function receive(spec: DownloadSpec, part: string, have: number, context: FetchContext): Promise<void> {
  const { signal, settings } = context;
  const range: Record<string, string> = have > 0 ? { range: `bytes=${have}-` } : {};
  let response: IncomingMessage;
  try {
    const headers = { ...spec.headers, ...range, 'accept-encoding': 'identity' };
    response = await httpRequest(spec.url, { headers, environment: settings.environment, signal });
  } catch (error) {
    signal.throwIfAborted();
    throw new Interruption((error as Error).message, { cause: error });
  }
  const status = response.statusCode ?? 0;
  if (status === 416) {
    response.destroy();
    await rm(part, { force: true });
    throw new Interruption('the server refuses to go on where the last attempt ended');
  }
  if (status !== 200 && status !== 206) {
    response.destroy();
    const message = `the server answers ${status} ${response.statusMessage ?? ''}`.trimEnd();
    if (status === 429 || status >= 500) throw new Interruption(message);
    throw new XllmError('model_unavailable', `${spec.url}: ${message}`);
  }
  const start = status === 206 ? rangeStart(response) : 0;
  if (start !== 0 && start !== have) {
    response.destroy();
    throw new Interruption('the server sends another range than was asked for');
  }
  await append(spec, part, start, response, context);
}

function rangeStart(response: IncomingMessage): number {
  const match = /^bytes (\d+)-/.exec(response.headers['content-range'] ?? '');
  return match === null ? -1 : Number(match[1]);
}

async function append(
  spec: DownloadSpec,
  part: string,
  start: number,
  response: IncomingMessage,
  context: FetchContext,
): Promise<void> {
  const file = await open(part, start === 0 ? 'w' : 'a');
  let received = start;
  try {
    for await (const piece of response as AsyncIterable<Buffer>) {
      received += piece.length;
      if (received > spec.numBytes) {
        throw new XllmError('model_unavailable', `${spec.url}: more than the stated ${spec.numBytes} bytes arrive`);
      }
      await file.writeFile(piece).catch((error: unknown) => {
        throw cannotWrite(spec.target, error);
      });
      report(spec, context, 'receiving', received);
    }
    await file.sync().catch((error: unknown) => {
      throw cannotWrite(spec.target, error);
    });
  } catch (error) {
    context.signal.throwIfAborted();
    if (error instanceof XllmError) throw error;
    throw new Interruption(`the connection broke: ${(error as Error).message}`, { cause: error });
  } finally {
    response.destroy();
    await file.close();
  }
  if (received < spec.numBytes) throw new Interruption('the connection ended early');
}

function cannotWrite(target: string, error: unknown): XllmError {
  const hint = 'free some space or choose another folder with XLLM_CACHE';
  return new XllmError('model_unavailable', `${target}: cannot be written: ${(error as Error).message}; ${hint}`, {
    cause: error,
  });
}

async function checkSpace(spec: DownloadSpec, have: number): Promise<void> {
  const { bavail, bsize } = await statfs(dirname(spec.target));
  const needed = spec.numBytes - have;
  if (bavail * bsize >= needed) return;
  const figures = `${toMb(needed)} MB are needed, ${toMb(bavail * bsize)} MB are free`;
  throw new XllmError(
    'model_unavailable',
    `${spec.target}: ${figures}; free some or choose another folder with XLLM_CACHE`,
  );
}

const toMb = (numBytes: number) => Math.ceil(numBytes / 1e6);

async function sizeOf(path: string): Promise<number> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  return found === undefined ? 0 : found.size;
}

function report(
  spec: DownloadSpec,
  context: FetchContext,
  state: 'receiving' | 'checking' | 'done',
  receivedBytes: number,
): void {
  context.onProgress({ file: basename(spec.target), source: 'hub', state, receivedBytes, totalBytes: spec.numBytes });
}
