// Owns the event loop's side of text work: what needs a tokenizer's state goes to worker threads, streams do not.
import { getCompileCacheDir } from 'node:module';
import { dirname } from 'node:path';
import { entryUrl } from '../../common/entry.ts';
import { XllmError } from '../../common/errors.ts';
import { IncrementalDecoder } from './stream-decoder.ts';
import type { ChatTemplateInput, DecodeOptions, EncodeOptions, StreamDecoder, TextService } from './text-service.ts';
import { lossyUtf8, TokenTable } from './token-table.ts';
import { WorkerPool } from './worker-pool.ts';
import type { TextCall, TextResult, TextWorkerData, TextWorkerReady } from './worker-messages.ts';

export interface TextServiceOptions {
  /** Threads; each holds the tokenizer (about 50 MB for 50,000 tokens, 130 MB for 150,000). */
  readonly numWorkers?: number;
  /** Longest text that is encoded, and longest prompt that a chat template may write, in UTF-16 units. */
  readonly maxTextUnits?: number;
  /** Template nodes evaluated per prompt; about 5 million a second. */
  readonly maxTemplateSteps?: number;
  /** A call that takes longer ends its thread; a backstop, as the limits above bound the work. */
  readonly maxCallMs?: number;
  readonly maxHeapMb?: number;
  /** Milliseconds since 1970, for templates that ask for the date. */
  readonly now?: () => number;
}

/** Reading the largest tokenizer takes a few seconds; more only where a file is made to hang. */
const maxStartMs = 120_000;

type Pool = WorkerPool<TextCall, TextResult, TextWorkerReady | null>;

/**
 * The text service of the model at `modelPath`: a GGUF file, or a folder with tokenizer.json. Without a tokenizer there
 * every method throws tokenizer_missing. Rejects with XllmError model_unavailable, model_file_invalid or
 * model_unsupported.
 */
export async function createTextService(modelPath: string, options: TextServiceOptions = {}): Promise<TextService> {
  const { numWorkers = 1, maxTextUnits = 4 << 20, maxTemplateSteps = 20_000_000 } = options;
  const { maxCallMs = 30_000, maxHeapMb = 2_048, now = Date.now } = options;
  const cacheFolder = getCompileCacheDir();
  const workerData: TextWorkerData = {
    modelPath,
    limits: { maxSteps: maxTemplateSteps, maxUnits: maxTextUnits },
    // The folder ends in a part for this version of Node, which enabling adds again.
    compileCacheFolder: cacheFolder === undefined ? undefined : dirname(cacheFolder),
  };
  const { pool, ready } = await WorkerPool.start<TextCall, TextResult, TextWorkerReady | null>({
    entry: entryUrl(import.meta.url, './text-worker.ts'),
    workerData,
    numWorkers,
    maxCallMs,
    maxStartMs,
    maxHeapMb,
  });
  if (ready !== null) return new WorkerTextService(pool, ready, maxTextUnits, now);
  await pool.close();
  return new NoTextService();
}

class WorkerTextService implements TextService {
  readonly hasTokenizer = true;
  readonly hasChatTemplate: boolean;
  readonly #pool: Pool;
  readonly #table: TokenTable;
  readonly #maxTextUnits: number;
  readonly #now: () => number;

  constructor(pool: Pool, ready: TextWorkerReady, maxTextUnits: number, now: () => number) {
    this.#pool = pool;
    this.#table = new TokenTable(ready.table);
    this.hasChatTemplate = ready.hasChatTemplate;
    this.#maxTextUnits = maxTextUnits;
    this.#now = now;
  }

  async encode(text: string, options: EncodeOptions): Promise<Int32Array> {
    if (text.length > this.#maxTextUnits) {
      throw new XllmError(
        'invalid_request',
        `the text has ${text.length} units, at most ${this.#maxTextUnits} are taken`,
      );
    }
    const { ids } = await this.#pool.call({ kind: 'encode', text, options }, (why) => {
      return new XllmError('invalid_request', `the text could not be tokenised: ${why}`);
    });
    return ids;
  }

  encodeChat(input: ChatTemplateInput): Promise<TextResult> {
    return this.#pool.call({ kind: 'chat', input, nowMs: this.#now() }, (why) => {
      return new XllmError('template_failed', `the chat template was stopped: ${why}`);
    });
  }

  async decode(ids: Int32Array, options: DecodeOptions = {}): Promise<string> {
    const { text } = await this.#pool.call({ kind: 'decode', ids, options }, (why) => {
      return new XllmError('invalid_request', `the tokens could not be decoded: ${why}`);
    });
    return text;
  }

  createStreamDecoder(options: DecodeOptions = {}): StreamDecoder {
    return new IncrementalDecoder(this.#table, options);
  }

  tokenText(id: number): { readonly text: string; readonly bytes: Uint8Array } {
    const bytes = this.#table.bytes(id);
    return { text: this.#table.text(id) ?? lossyUtf8(bytes), bytes };
  }

  close(): Promise<void> {
    return this.#pool.close();
  }
}

class NoTextService implements TextService {
  readonly hasTokenizer = false;
  readonly hasChatTemplate = false;

  async encode(): Promise<never> {
    throw tokenizerMissing();
  }

  async encodeChat(): Promise<never> {
    throw tokenizerMissing();
  }

  async decode(): Promise<never> {
    throw tokenizerMissing();
  }

  createStreamDecoder(): never {
    throw tokenizerMissing();
  }

  tokenText(): never {
    throw tokenizerMissing();
  }

  async close(): Promise<void> {}
}

const tokenizerMissing = () =>
  new XllmError('tokenizer_missing', 'the model has no tokenizer files: send the prompt as token ids');
