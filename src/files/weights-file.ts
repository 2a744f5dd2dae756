// Owns the one view of weight files, GGUF or safetensors, that loaders and tokenizers build on.
import type { DType } from './dtype.ts';

export interface TensorInfo {
  readonly name: string;
  readonly dtype: DType;
  /** Row-major, outermost first (PyTorch's order; GGUF's dimensions reversed). A scalar is []. */
  readonly shape: readonly number[];
  readonly numElements: number;
  readonly numBytes: number;
  /** Index into `files` of the file that holds the data. */
  readonly fileIndex: number;
  /** Where the data starts in that file. GGUF aligns it (32 unless stated); safetensors need not. */
  readonly byteOffset: number;
}

export interface OpenFile {
  readonly path: string;
  readonly numBytes: number;
  /** Open for reading until `close()`; for mapping or pread. */
  readonly fd: number;
}

/** Tensors of one file or of a sharded set. Nothing but headers is held in memory. */
export interface TensorFiles {
  readonly files: readonly OpenFile[];
  /** In file order. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /**
   * Fills `target` with the tensor's bytes from `offset` on (0 unless given), so that callers choose the piece size.
   * Throws XllmError model_file_invalid for an unknown name or a file that has shrunk; a range past the tensor's end is a bug.
   */
  read(tensor: string | TensorInfo, target: Uint8Array, offset?: number): Promise<void>;
  close(): void;
}

/** Numeric arrays are typed arrays, except 64-bit ones: numbers where safe, else bigints, as for 64-bit scalars. */
export type GgufValue = string | number | bigint | boolean | GgufArray;
export type GgufArray =
  | readonly string[]
  | readonly boolean[]
  | readonly (number | bigint)[]
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | readonly GgufArray[];

export type GgufMetadata = ReadonlyMap<string, GgufValue>;

export interface GgufFile extends TensorFiles {
  readonly kind: 'gguf';
  /** Of the first file of a split set. */
  readonly metadata: GgufMetadata;
}

export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json | undefined;
}

export interface SafetensorsFolder extends TensorFiles {
  readonly kind: 'safetensors';
  /** The folder with config.json and, where the model has them, tokenizer files. */
  readonly folder: string;
  /** config.json, as published or as transformers 5 saves it. */
  readonly config: JsonObject;
  readonly generationConfig: JsonObject | undefined;
}

/** What `openWeights(path)` of open-weights.ts resolves to; `path` is a file, or a folder of safetensors. */
export type WeightsFile = GgufFile | SafetensorsFolder;
