// Owns writing GGUF files of random weights: models of any shape and format, for tests and benchmarks.
import { invariant, XllmError } from '../common/errors.ts';
import { bytesOf } from './dtype.ts';
import { encodeTensor, type WritableDType } from './encode-tensor.ts';
import { type TensorPlan, u32, type WritableValue, writeGguf } from './gguf-writer.ts';
import { type ModelShape, type SyntheticTensor, shapeMetadata, tensorsOf } from './model-shapes.ts';
import type { GgufMetadata } from './weights-file.ts';

export interface SynthesisOptions {
  /** Of the shape, for the file's metadata. */
  readonly name: string;
  readonly shape: ModelShape;
  readonly dtype: WritableDType;
  readonly path: string;
  readonly seed: number;
  /** Metadata of a file whose tokenizer is copied; without it, the file has none. */
  readonly tokenizer?: GgufMetadata;
  readonly onProgress?: (writtenBytes: number, totalBytes: number) => void;
}

/** A multiple of every block; 256 KiB of floats stay in the second-level cache. */
const pieceElements = 65_536;

/**
 * Writes the file, a piece at a time; equal options give equal bytes. The vocabulary is the shape's or the tokenizer's,
 * whichever is larger; ids without a token are padded with unused ones. Throws XllmError usage for a tokenizer that
 * the metadata does not have.
 */
export async function synthesiseModel(options: SynthesisOptions): Promise<void> {
  const { name, dtype, path, tokenizer } = options;
  const tokens = tokenizer?.get('tokenizer.ggml.tokens');
  if (tokenizer !== undefined && !Array.isArray(tokens)) {
    throw new XllmError('usage', 'the file to copy the tokenizer from has none');
  }
  const numTokens = Array.isArray(tokens) ? tokens.length : 0;
  const shape = { ...options.shape, vocabSize: Math.max(options.shape.vocabSize, numTokens) };
  const metadata = shapeMetadata(name, shape, dtype);
  const tokenizerEntries = tokenizer === undefined ? noTokenizer : paddedTokenizer(tokenizer, shape.vocabSize);
  for (const [key, value] of tokenizerEntries) metadata.set(key, value);

  const tensors = tensorsOf(shape, dtype);
  const totalBytes = tensors.reduce((sum, tensor) => sum + bytesOf(tensor.dtype, numElements(tensor)), 0);
  let writtenBytes = 0;
  await writeGguf(path, metadata, tensors, function* (plan) {
    const tensor = tensors.find((candidate) => candidate === plan);
    invariant(tensor !== undefined, `${plan.name} is one of the tensors`);
    for (const piece of randomPieces(tensor, shape, options.seed)) {
      yield piece;
      writtenBytes += piece.length;
      options.onProgress?.(writtenBytes, totalBytes);
    }
  });
}

/** llama.cpp's name for a model that takes and gives token ids only. */
const noTokenizer = [['tokenizer.ggml.model', 'none']] as const;

/** enum llama_token_type of llama.h: never produced from text. */
const unusedToken = 5;

function* paddedTokenizer(metadata: GgufMetadata, vocabSize: number): Iterable<readonly [string, WritableValue]> {
  for (const [key, value] of metadata) {
    if (!key.startsWith('tokenizer.')) continue;
    if (key === 'tokenizer.ggml.tokens') {
      const tokens = value as readonly string[];
      yield [key, Array.from({ length: vocabSize }, (_, id) => tokens[id] ?? `[PAD${id}]`)];
    } else if (value instanceof Int32Array && key === 'tokenizer.ggml.token_type') {
      yield [key, Int32Array.from({ length: vocabSize }, (_, id) => value[id] ?? unusedToken)];
    } else if (value instanceof Float32Array && key === 'tokenizer.ggml.scores') {
      yield [key, Float32Array.from({ length: vocabSize }, (_, id) => value[id] ?? -1e4)];
    } else if (typeof value === 'number' || typeof value === 'bigint') {
      // The numbers that tokenizers have are token ids.
      yield [key, u32(Number(value))];
    } else {
      yield [key, value];
    }
  }
}

function* randomPieces(tensor: SyntheticTensor, shape: ModelShape, seed: number): Iterable<Uint8Array> {
  const fill = normalSource(`${seed}/${tensor.name}`);
  const { mean, deviation } = distribution(tensor, shape);
  const values = new Float32Array(pieceElements);
  const bytes = new Uint8Array(bytesOf(tensor.dtype, pieceElements));
  for (let left = numElements(tensor); left > 0; left -= pieceElements) {
    const piece = values.subarray(0, Math.min(left, pieceElements));
    fill(piece, mean, deviation);
    const encoded = bytes.subarray(0, bytesOf(tensor.dtype, piece.length));
    encodeTensor(tensor.dtype as WritableDType, piece, encoded);
    yield encoded;
  }
}

/**
 * Keeps activations near unit variance through any depth: projections divide by the root of their inputs, those that
 * add to the residual stream by that of their number too. Logits get a deviation of 3, so that the best token stands
 * out as in a trained model.
 */
function distribution(tensor: SyntheticTensor, shape: ModelShape): { mean: number; deviation: number } {
  const numInputs = tensor.shape.at(-1) ?? 1;
  switch (tensor.kind) {
    case 'norm':
      return { mean: 1, deviation: 0.1 };
    case 'bias':
      return { mean: 0, deviation: 0.1 };
    case 'embedding':
      return { mean: 0, deviation: 3 / Math.sqrt(numInputs) };
    case 'input':
      return { mean: 0, deviation: 1 / Math.sqrt(numInputs) };
    case 'residual':
      return { mean: 0, deviation: 1 / Math.sqrt(numInputs * 2 * shape.numLayers) };
  }
}

/** Of the sum of four bytes drawn evenly: 4 (256^2 - 1) / 12. */
const byteSumMean = 510;
const byteSumDeviation = Math.sqrt(21_845);

/** Nearly normal values: sums of the four bytes of each number of an xorshift32 sequence (Marsaglia 2003). */
function normalSource(seed: string): (target: Float32Array, mean: number, deviation: number) => void {
  let state = fnv1a(seed) || 1;
  return (target, mean, deviation) => {
    const scale = deviation / byteSumDeviation;
    const base = mean - byteSumMean * scale;
    for (let i = 0; i < target.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      const sum = (state & 255) + ((state >>> 8) & 255) + ((state >>> 16) & 255) + (state >>> 24);
      target[i] = sum * scale + base;
    }
  };
}

/** 32-bit FNV-1a (Fowler, Noll, Vo). */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash;
}

function numElements({ shape }: TensorPlan): number {
  return shape.reduce((product, size) => product * size, 1);
}
