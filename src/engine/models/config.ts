// Owns the normalised description of a decoder: what remains once config.json or GGUF metadata has been read.
import type { CacheGroup, KvElement } from '../kv/cache-group.ts';
import type { Activation } from '../tensor/ops.ts';
import type { RopeScaling } from './rope-scaling.ts';

export interface RopeConfig {
  readonly base: number;
  readonly scaling: RopeScaling;
}

export interface LayerConfig {
  /** Tokens that a token sees, itself included; null: all before it. */
  readonly window: number | null;
  readonly rope: RopeConfig;
}

export interface ModelConfig {
  /** Name of the architecture in Hugging Face's terms. */
  readonly architecture: string;
  /** Rows of the embeddings and of the head. */
  readonly vocabSize: number;
  /** Ids that have a token: the rows behind them are padding, never sampled. */
  readonly numIds: number;
  readonly hiddenSize: number;
  readonly ffnSize: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly normEps: number;
  /** What file norms lack: 1 where the file stores w of (1 + w). */
  readonly normOffset: number;
  readonly activation: Activation;
  /** Factor on q·k before the softmax. */
  readonly attentionScale: number;
  /** Factor on the embeddings; 1: none. */
  readonly embeddingScale: number;
  /** Which pairs of a head's elements rotate together: GGUF files of some architectures permute them. */
  readonly ropePairs: 'adjacent' | 'halves';
  /** Prompt plus generated tokens that the model was made for. */
  readonly maxPositions: number;
  readonly layers: readonly LayerConfig[];
  /** Tokens that end a sequence: eos, eot and the generation config's list; ascending. */
  readonly stopTokenIds: readonly number[];
}

/**
 * Layers that keep their cache alike form a group: all, or sliding and global ones apart, in order of first layer.
 */
export function cacheGroups(config: ModelConfig, element: KvElement): CacheGroup[] {
  const byWindow = Map.groupBy(config.layers.keys(), (layer) => config.layers[layer]?.window ?? null);
  return [...byWindow].map(([window, layers]) => ({
    name: window === null ? 'global' : `window-${window}`,
    layers,
    kind: window === null ? { type: 'paged' } : { type: 'window', numTokens: window },
    numKvHeads: config.numKvHeads,
    keyDim: config.headDim,
    valueDim: config.headDim,
    element,
  }));
}
