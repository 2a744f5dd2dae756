// Owns which buffers a step program has, and their sizes.
// Legend: T tokens, O outputs, D hidden size, H heads, G key/value heads, K head dim, F feed-forward size, V vocabulary.
import { resultElements } from '../jit/kernels/sampler-abi.ts';
import type { ModelConfig } from '../models/config.ts';
import type { Activations, Rows } from './activations.ts';

const LINE_BYTES = 64;

/** What steps hand on to the next op. */
export interface SharedBuffers {
  /** F32 [T,D] */
  readonly residual: Rows;
  /** F32 [T,D]: a product that is normed before it joins the residual. */
  readonly branch: Rows;
  /** F32 [T,(H+2G)K] */
  readonly qkv: Rows;
  /** F32 [T,H*K] */
  readonly attended: Rows;
  /** F32 [T,2F], gates before ups. */
  readonly gateUp: Rows;
  /** F32 [O,D] */
  readonly outputResidual: Rows;
  /** F32 [O,H*K] */
  readonly outputAttended: Rows;
}

/** What a step leaves to the host and to the next step. */
export interface ResultBuffers {
  /** F32 [O,D] after the final norm. */
  readonly hidden: Rows;
  /** F32 [O,V] */
  readonly logits: Rows;
  /** I32 [O, resultElements(V)] */
  readonly results: Rows;
}

export type Buffers = SharedBuffers & ResultBuffers;

export function allocateShared(
  activations: Activations,
  config: ModelConfig,
  maxTokens: number,
  maxOutputs: number,
): SharedBuffers {
  const { hiddenSize: D, ffnSize: F, numHeads: H, numKvHeads: G, headDim: K } = config;
  // An odd number of cache lines apart: the rows of a product's column share no sets of the caches.
  const tokens = (width: number) => activations.rows(maxTokens, (Math.ceil((4 * width) / LINE_BYTES) | 1) * LINE_BYTES);
  const outputs = (width: number) => activations.rows(maxOutputs, 4 * width);
  return {
    residual: tokens(D),
    branch: tokens(D),
    qkv: tokens((H + 2 * G) * K),
    attended: tokens(H * K),
    gateUp: tokens(2 * F),
    outputResidual: outputs(D),
    outputAttended: outputs(H * K),
  };
}

export function allocateResults(
  activations: Activations,
  { hiddenSize: D, vocabSize: V }: ModelConfig,
  maxOutputs: number,
): ResultBuffers {
  const outputs = (width: number) => activations.rows(maxOutputs, 4 * width);
  return { hidden: outputs(D), logits: outputs(V), results: outputs(resultElements(V)) };
}
