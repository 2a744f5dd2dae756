// Owns the shapes of models that can be synthesised, and which tensors and metadata a GGUF file of each has.
// Names as llama.cpp's converter writes them (gguf-py/gguf/constants.py), so that llama.cpp loads the files too.
import type { DType } from './dtype.ts';
import { f32, type TensorPlan, u32, type WritableValue } from './gguf-writer.ts';

export interface ModelShape {
  readonly architecture: 'llama' | 'qwen2' | 'qwen3' | 'gemma3';
  readonly numLayers: number;
  readonly hidden: number;
  readonly ffn: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly ropeTheta: number;
  readonly contextLength: number;
  readonly vocabSize: number;
  /** The head is the embedding. */
  readonly isTied: boolean;
  /** Tokens that a sliding layer sees; llama.cpp does not read it for `llama` (Mistral's architecture). */
  readonly slidingWindow?: number;
}

const tiny = {
  numLayers: 2,
  hidden: 64,
  ffn: 128,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 32,
  ropeTheta: 10_000,
  contextLength: 512,
  vocabSize: 512,
  isTied: true,
} as const;

const qwen3 = {
  architecture: 'qwen3',
  numLayers: 28,
  numHeads: 16,
  numKvHeads: 8,
  headDim: 128,
  ropeTheta: 1e6,
  contextLength: 40_960,
  vocabSize: 151_936,
  isTied: true,
} as const;

/** The Qwen3 rows as in the config.json of Qwen/Qwen3-0.6B and Qwen/Qwen3-1.7B. */
export const modelShapes: Readonly<Record<string, ModelShape>> = {
  'qwen3-0.6b': { ...qwen3, hidden: 1_024, ffn: 3_072 },
  'qwen3-1.7b': { ...qwen3, hidden: 2_048, ffn: 6_144 },
  'tiny-llama': { ...tiny, architecture: 'llama', isTied: false },
  'tiny-mistral': { ...tiny, architecture: 'llama', isTied: false, slidingWindow: 64 },
  'tiny-qwen2': { ...tiny, architecture: 'qwen2', headDim: 16 },
  'tiny-qwen3': { ...tiny, architecture: 'qwen3' },
  // Six layers: five that slide and one that does not.
  'tiny-gemma3': { ...tiny, architecture: 'gemma3', numLayers: 6, slidingWindow: 64, ropeTheta: 1e6 },
};

/** `kind` says how its values are drawn. */
export interface SyntheticTensor extends TensorPlan {
  readonly kind: 'embedding' | 'input' | 'residual' | 'norm' | 'bias';
}

/** Matrices in `dtype`, everything with one dimension in F32. */
export function tensorsOf(shape: ModelShape, dtype: DType): readonly SyntheticTensor[] {
  const { architecture, hidden, ffn, headDim, vocabSize } = shape;
  const queries = shape.numHeads * headDim;
  const keys = shape.numKvHeads * headDim;
  const vector = (name: string, size: number, kind: 'norm' | 'bias'): SyntheticTensor => {
    return { name, dtype: 'F32', shape: [size], kind };
  };
  const matrix = (name: string, rows: number, columns: number, kind: SyntheticTensor['kind']): SyntheticTensor => {
    return { name: `${name}.weight`, dtype, shape: [rows, columns], kind };
  };
  const norm = (name: string, size: number) => vector(`${name}.weight`, size, 'norm');
  const tensors = [matrix('token_embd', vocabSize, hidden, 'embedding')];
  for (let layer = 0; layer < shape.numLayers; layer++) {
    const blk = (name: string) => `blk.${layer}.${name}`;
    tensors.push(
      norm(blk('attn_norm'), hidden),
      matrix(blk('attn_q'), queries, hidden, 'input'),
      matrix(blk('attn_k'), keys, hidden, 'input'),
      matrix(blk('attn_v'), keys, hidden, 'input'),
      matrix(blk('attn_output'), hidden, queries, 'residual'),
      norm(blk('ffn_norm'), hidden),
      matrix(blk('ffn_gate'), ffn, hidden, 'input'),
      matrix(blk('ffn_up'), ffn, hidden, 'input'),
      matrix(blk('ffn_down'), hidden, ffn, 'residual'),
    );
    if (architecture === 'qwen2') {
      for (const [name, size] of [
        ['attn_q', queries],
        ['attn_k', keys],
        ['attn_v', keys],
      ] as const) {
        tensors.push(vector(`${blk(name)}.bias`, size, 'bias'));
      }
    }
    if (architecture === 'qwen3' || architecture === 'gemma3') {
      tensors.push(norm(blk('attn_q_norm'), headDim), norm(blk('attn_k_norm'), headDim));
    }
    if (architecture === 'gemma3') {
      tensors.push(norm(blk('post_attention_norm'), hidden), norm(blk('post_ffw_norm'), hidden));
    }
  }
  tensors.push(norm('output_norm', hidden));
  if (!shape.isTied) tensors.push(matrix('output', vocabSize, hidden, 'embedding'));
  return tensors;
}

/** enum llama_ftype of llama.h. */
const fileTypes: Readonly<Partial<Record<DType, number>>> = { F32: 0, F16: 1, Q4_0: 2, Q4_1: 3, Q8_0: 7, BF16: 32 };

/** Everything but the tokenizer. */
export function shapeMetadata(name: string, shape: ModelShape, dtype: DType): Map<string, WritableValue> {
  const { architecture } = shape;
  const metadata = new Map<string, WritableValue>([
    ['general.architecture', architecture],
    ['general.type', 'model'],
    ['general.name', `Random weights in the shape of ${name}`],
    ['general.file_type', u32(fileTypes[dtype] ?? 0)],
    ['general.quantization_version', u32(2)],
  ]);
  const put = (key: string, value: WritableValue) => metadata.set(`${architecture}.${key}`, value);
  put('block_count', u32(shape.numLayers));
  put('context_length', u32(shape.contextLength));
  put('embedding_length', u32(shape.hidden));
  put('feed_forward_length', u32(shape.ffn));
  put('attention.head_count', u32(shape.numHeads));
  put('attention.head_count_kv', u32(shape.numKvHeads));
  put('attention.key_length', u32(shape.headDim));
  put('attention.value_length', u32(shape.headDim));
  put('attention.layer_norm_rms_epsilon', f32(1e-6));
  put('rope.dimension_count', u32(shape.headDim));
  put('rope.freq_base', f32(shape.ropeTheta));
  put('vocab_size', u32(shape.vocabSize));
  if (shape.slidingWindow !== undefined) put('attention.sliding_window', u32(shape.slidingWindow));
  return metadata;
}
