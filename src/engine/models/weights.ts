// Owns the shape of a model's weights, whatever stands for one: data in memory, or a tensor of a graph.
// Legend: D hidden size, H heads, G key/value heads, K head dim, F feed-forward size, V vocabulary.

export interface Linear<W> {
  /** [N,D] */
  readonly weight: W;
  /** [N] */
  readonly bias: W | null;
}

/** Products with the same input: one matrix of all rows below each other where their formats agree, else several. */
export type Stacked<W> = readonly Linear<W>[];

export interface LayerWeights<W> {
  readonly attnNorm: W;
  /** q [H*K], k [G*K], v [G*K] */
  readonly qkv: Stacked<W>;
  /** [K], over each head */
  readonly qNorm: W | null;
  readonly kNorm: W | null;
  readonly attnOutput: Linear<W>;
  readonly attnPostNorm: W | null;
  readonly ffnNorm: W;
  /** gate [F], up [F] */
  readonly gateUp: Stacked<W>;
  readonly down: Linear<W>;
  readonly ffnPostNorm: W | null;
}

export interface ModelWeights<W> {
  /** [V,D]; the head's own weight where they are tied. */
  readonly embedding: W;
  readonly layers: readonly LayerWeights<W>[];
  readonly outputNorm: W;
  readonly head: Linear<W>;
}

export function mapWeights<A, B>(weights: ModelWeights<A>, map: (weight: A) => B): ModelWeights<B> {
  const optional = (weight: A | null) => (weight === null ? null : map(weight));
  const linear = ({ weight, bias }: Linear<A>): Linear<B> => ({ weight: map(weight), bias: optional(bias) });
  return {
    embedding: map(weights.embedding),
    layers: weights.layers.map((layer) => ({
      attnNorm: map(layer.attnNorm),
      qkv: layer.qkv.map(linear),
      qNorm: optional(layer.qNorm),
      kNorm: optional(layer.kNorm),
      attnOutput: linear(layer.attnOutput),
      attnPostNorm: optional(layer.attnPostNorm),
      ffnNorm: map(layer.ffnNorm),
      gateUp: layer.gateUp.map(linear),
      down: linear(layer.down),
      ffnPostNorm: optional(layer.ffnPostNorm),
    })),
    outputNorm: map(weights.outputNorm),
    head: linear(weights.head),
  };
}
