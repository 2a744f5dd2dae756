// Owns what passes between the event loop and a text worker.
import type { ErrorCode } from '../../common/errors.ts';
import type { JinjaLimits } from './jinja.ts';
import type { ChatTemplateInput, DecodeOptions, EncodeOptions } from './text-service.ts';
import type { SharedTokenTable } from './token-table.ts';

export interface TextWorkerData {
  readonly modelPath: string;
  readonly limits: JinjaLimits;
  /** Where the process caches compiled code; undefined where it does not. */
  readonly compileCacheFolder: string | undefined;
}

/** What a worker says once, when its tokenizer is ready; null: the model has none. */
export interface TextWorkerReady {
  readonly table: SharedTokenTable;
  readonly hasChatTemplate: boolean;
}

export type TextCall =
  | { readonly kind: 'encode'; readonly text: string; readonly options: EncodeOptions }
  | { readonly kind: 'chat'; readonly input: ChatTemplateInput; readonly nowMs: number }
  | { readonly kind: 'decode'; readonly ids: Int32Array; readonly options: DecodeOptions };

/** `ids` is empty for decode, `text` for encode. */
export interface TextResult {
  readonly ids: Int32Array;
  readonly text: string;
}

/** An XllmError on its way to another thread. */
export interface SentError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly param: string | undefined;
}

export type Sent<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: SentError };
