// Owns reading a decoder's description from GGUF metadata. Keys: gguf.md of the ggml project.
import { XllmError } from '../../common/errors.ts';
import type { GgufMetadata } from '../../files/weights-file.ts';
import type { ModelConfig } from './config.ts';
import type { Fields } from './fields.ts';
import { stopIds } from './hf-config.ts';
import type { RopeScaling } from './rope-scaling.ts';

/** What the metadata leaves to the tensors. */
export interface GgufTensorFacts {
  /** Rows of the embedding table. */
  readonly vocabSize: number;
  /** `rope_freqs.weight`, where the file has it. */
  readonly ropeFactors: Float32Array | null;
}

/** The common decoder; an architecture's delta comes on top. */
export function readGgufConfig(fields: Fields, facts: GgufTensorFacts, architecture: string): ModelConfig {
  const hiddenSize = fields.count('embedding_length');
  const numHeads = fields.count('attention.head_count');
  const headDim = fields.count('attention.key_length', hiddenSize / numHeads);
  const numLayers = fields.count('block_count');
  if (fields.count('attention.value_length', headDim) !== headDim) {
    throw unsupported('key and value heads of different sizes');
  }
  if (fields.count('rope.dimension_count', headDim) !== headDim) throw unsupported('rotation of a part of each head');
  if (fields.number('expert_count', 0) > 0) throw unsupported('experts (a mixture-of-experts model)');
  const scaling: RopeScaling = facts.ropeFactors
    ? { type: 'factors', factors: facts.ropeFactors }
    : readScaling(fields);
  const rope = { base: fields.number('rope.freq_base', 10_000), scaling };
  return {
    architecture,
    vocabSize: facts.vocabSize,
    numIds: Math.min(facts.vocabSize, fields.list('tokenizer.ggml.tokens')?.length || facts.vocabSize),
    hiddenSize,
    ffnSize: fields.count('feed_forward_length'),
    numHeads,
    numKvHeads: fields.count('attention.head_count_kv', numHeads),
    headDim,
    normEps: fields.number('attention.layer_norm_rms_epsilon'),
    normOffset: 0,
    activation: 'silu',
    attentionScale: headDim ** -0.5,
    embeddingScale: 1,
    ropePairs: 'halves',
    maxPositions: fields.count('context_length'),
    layers: Array.from({ length: numLayers }, () => ({ window: null, rope })),
    stopTokenIds: readStopIds(fields),
  };
}

function readScaling(fields: Fields): RopeScaling {
  const type = fields.text('rope.scaling.type', 'none');
  switch (type) {
    case 'none':
      return { type };
    case 'linear':
      return { type, factor: fields.number('rope.scaling.factor') };
    case 'yarn':
      return {
        type,
        factor: fields.number('rope.scaling.factor'),
        originalMaxPositions: fields.count('rope.scaling.original_context_length', fields.count('context_length')),
        betaFast: fields.number('rope.scaling.yarn_beta_fast', 32),
        betaSlow: fields.number('rope.scaling.yarn_beta_slow', 1),
        attentionFactor: null,
      };
    default:
      throw unsupported(`rope scaling ${type}; supported: none, linear, yarn, rope_freqs.weight`);
  }
}

/** Texts of tokens that end a turn, for files that name only eos: as chat models use them. */
const turnEnds = new Set(['<|im_end|>', '<|eot_id|>', '<|eom_id|>', '<end_of_turn>', '<|end|>', '<|endoftext|>']);

function readStopIds(fields: Fields): number[] {
  const named = ['eos', 'eot', 'eom'].flatMap((name) => fields.tokenIds(`tokenizer.ggml.${name}_token_id`));
  if (fields.has('tokenizer.ggml.eot_token_id')) return stopIds(named);
  const tokens = fields.list('tokenizer.ggml.tokens') ?? [];
  const found = [...turnEnds].map((text) => tokens.indexOf(text)).filter((id) => id >= 0);
  return stopIds([...named, ...found]);
}

/** Reads `general.architecture`. */
export function ggufArchitecture(metadata: GgufMetadata): string {
  const name = metadata.get('general.architecture');
  if (typeof name !== 'string') {
    throw new XllmError('model_file_invalid', 'GGUF metadata: "general.architecture" must be a string');
  }
  return name;
}

function unsupported(what: string): XllmError {
  return new XllmError('model_unsupported', `the GGUF file asks for ${what}`);
}
