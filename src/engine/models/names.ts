// Owns how the two kinds of files name a decoder's tensors.
import type { WeightsFile } from '../../files/weights-file.ts';

export const layerParts = [
  'attnNorm',
  'q',
  'k',
  'v',
  'attnOutput',
  'qNorm',
  'kNorm',
  'attnPostNorm',
  'ffnNorm',
  'gate',
  'up',
  'down',
  'ffnPostNorm',
] as const;

/** Parts of a layer. `*Norm` are vectors, the rest matrices that may have a bias. */
export type LayerPart = (typeof layerParts)[number];
export type ModelPart = 'embedding' | 'outputNorm' | 'head';

/** Names without `.weight` and `.bias`. */
export interface TensorNames {
  readonly model: Readonly<Record<ModelPart, string>>;
  layer(index: number, part: LayerPart): string;
}

const gguf: Readonly<Record<LayerPart, string>> = {
  attnNorm: 'attn_norm',
  q: 'attn_q',
  k: 'attn_k',
  v: 'attn_v',
  attnOutput: 'attn_output',
  qNorm: 'attn_q_norm',
  kNorm: 'attn_k_norm',
  attnPostNorm: 'post_attention_norm',
  ffnNorm: 'ffn_norm',
  gate: 'ffn_gate',
  up: 'ffn_up',
  down: 'ffn_down',
  ffnPostNorm: 'post_ffw_norm',
};

const huggingFace: Readonly<Record<LayerPart, string>> = {
  attnNorm: 'input_layernorm',
  q: 'self_attn.q_proj',
  k: 'self_attn.k_proj',
  v: 'self_attn.v_proj',
  attnOutput: 'self_attn.o_proj',
  qNorm: 'self_attn.q_norm',
  kNorm: 'self_attn.k_norm',
  attnPostNorm: 'post_attention_layernorm',
  ffnNorm: 'pre_feedforward_layernorm',
  gate: 'mlp.gate_proj',
  up: 'mlp.up_proj',
  down: 'mlp.down_proj',
  ffnPostNorm: 'post_feedforward_layernorm',
};

export const ggufNames: TensorNames = {
  model: { embedding: 'token_embd', outputNorm: 'output_norm', head: 'output' },
  layer: (index, part) => `blk.${index}.${gguf[part]}`,
};

/** `isTwoNorm`: with two norms a layer, the one called "post attention" is the one before the feed-forward half. */
export function huggingFaceNames(isTwoNorm: boolean): TensorNames {
  const names = isTwoNorm ? { ...huggingFace, attnPostNorm: 'none', ffnNorm: huggingFace.attnPostNorm } : huggingFace;
  return {
    model: { embedding: 'model.embed_tokens', outputNorm: 'model.norm', head: 'lm_head' },
    layer: (index, part) => `model.layers.${index}.${names[part]}`,
  };
}

export function tensorNames(file: WeightsFile): TensorNames {
  if (file.kind === 'gguf') return ggufNames;
  return huggingFaceNames(!file.tensors.has(`model.layers.0.${huggingFace.ffnNorm}.weight`));
}
