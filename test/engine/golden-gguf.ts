// Owns writing the golden models as GGUF files, the way llama.cpp's converter does it: names, metadata, permuted rows.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { f32, type TensorPlan, u32, type WritableValue, writeGguf } from '../../src/files/gguf-writer.ts';
import { openWeights } from '../../src/files/open-weights.ts';
import type { TensorInfo } from '../../src/files/weights-file.ts';
import { ropeFactors } from '../../src/engine/models/rope-scaling.ts';
import { goldenFolder } from './golden-cases.ts';

interface HubConfig {
  readonly architectures: readonly string[];
  readonly head_dim?: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly max_position_embeddings: number;
  readonly num_attention_heads: number;
  readonly num_hidden_layers: number;
  readonly num_key_value_heads: number;
  readonly rms_norm_eps: number;
  readonly rope_theta: number;
  readonly rope_scaling: Readonly<Record<string, number>> & { readonly rope_type?: string };
  readonly query_pre_attn_scalar?: number;
  readonly sliding_window?: number | null;
  readonly layer_types?: readonly string[];
}

const architectures: Readonly<Record<string, string>> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'llama',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
  Gemma3ForCausalLM: 'gemma3',
};

const layerNames: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  post_attention_layernorm: 'ffn_norm',
  pre_feedforward_layernorm: 'ffn_norm',
  post_feedforward_layernorm: 'post_ffw_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
};

function ggufName(name: string, architecture: string): string {
  const top: Readonly<Record<string, string>> = {
    'model.embed_tokens.weight': 'token_embd.weight',
    'model.norm.weight': 'output_norm.weight',
    'lm_head.weight': 'output.weight',
  };
  const layer = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
  if (!layer) return top[name] ?? name;
  const [, index, part = '', kind] = layer;
  const isGemmaPostNorm = architecture === 'gemma3' && part === 'post_attention_layernorm';
  return `blk.${index}.${isGemmaPostNorm ? 'post_attention_norm' : layerNames[part]}.${kind}`;
}

/** Rows [H, 2, K/2] → [H, K/2, 2]: rotated pairs become neighbours. */
function permuteRows(values: Float32Array, numRows: number, numHeads: number): Float32Array {
  const out = new Float32Array(values.length);
  const columns = values.length / numRows;
  const headDim = numRows / numHeads;
  for (let row = 0; row < numRows; row++) {
    const head = Math.floor(row / headDim);
    const inHead = row % headDim;
    const half = headDim / 2;
    const target = head * headDim + (inHead % half) * 2 + Math.floor(inHead / half);
    out.set(values.subarray(row * columns, (row + 1) * columns), target * columns);
  }
  return out;
}

function widened(bytes: Uint8Array, dtype: TensorInfo['dtype']): Float32Array {
  if (dtype === 'F32') return new Float32Array(bytes.slice().buffer);
  const halves = new Uint16Array(bytes.slice().buffer);
  return new Float32Array(Uint32Array.from(halves, (bits) => bits << 16).buffer);
}

/** All tensors in F32, so that the golden tolerance holds. */
export async function writeGoldenGguf(model: string, path: string): Promise<void> {
  const config = JSON.parse(readFileSync(join(goldenFolder, model, 'config.hub.json'), 'utf8')) as HubConfig;
  const architecture = architectures[config.architectures[0] ?? ''] ?? '';
  const headDim = config.head_dim ?? config.hidden_size / config.num_attention_heads;
  const file = await openWeights(join(goldenFolder, model));
  const tensors = new Map<string, { plan: TensorPlan; values: Float32Array }>();
  for (const info of file.tensors.values()) {
    const bytes = new Uint8Array(info.numBytes);
    await file.read(info, bytes);
    let values = widened(bytes, info.dtype);
    const name = ggufName(info.name, architecture);
    if (architecture === 'gemma3' && name.endsWith('norm.weight')) values = values.map((x) => x + 1);
    // GGUF has no place for query_pre_attn_scalar: readers scale by the head size.
    const queryScale = Math.sqrt(headDim / (config.query_pre_attn_scalar ?? headDim));
    if (name.endsWith('attn_q_norm.weight')) values = values.map((x) => x * queryScale);
    const rows = info.shape[0] ?? 1;
    if (architecture === 'llama' && /attn_q\./.test(name))
      values = permuteRows(values, rows, config.num_attention_heads);
    if (architecture === 'llama' && /attn_k\./.test(name))
      values = permuteRows(values, rows, config.num_key_value_heads);
    tensors.set(name, { plan: { name, dtype: 'F32', shape: info.shape }, values });
  }
  file.close();
  const metadata = metadataOf(config, architecture, headDim);
  const { rope_scaling: scaling } = config;
  if (scaling?.rope_type === 'llama3') {
    const { frequencyFactors } = ropeFactors(
      {
        type: 'llama3',
        factor: scaling['factor']!,
        lowFreqFactor: scaling['low_freq_factor']!,
        highFreqFactor: scaling['high_freq_factor']!,
        originalMaxPositions: scaling['original_max_position_embeddings']!,
      },
      config.rope_theta,
      headDim,
    );
    const plan: TensorPlan = { name: 'rope_freqs.weight', dtype: 'F32', shape: [headDim / 2] };
    tensors.set(plan.name, { plan, values: frequencyFactors! });
  }
  await writeGguf(
    path,
    metadata,
    [...tensors.values()].map(({ plan }) => plan),
    ({ name }) => [new Uint8Array(tensors.get(name)!.values.buffer)],
  );
}

function metadataOf(config: HubConfig, architecture: string, headDim: number): Map<string, WritableValue> {
  const metadata = new Map<string, WritableValue>([
    ['general.architecture', architecture],
    ['tokenizer.ggml.eos_token_id', u32(2)],
  ]);
  const put = (key: string, value: WritableValue) => metadata.set(`${architecture}.${key}`, value);
  put('block_count', u32(config.num_hidden_layers));
  put('context_length', u32(config.max_position_embeddings));
  put('embedding_length', u32(config.hidden_size));
  put('feed_forward_length', u32(config.intermediate_size));
  put('attention.head_count', u32(config.num_attention_heads));
  put('attention.head_count_kv', u32(config.num_key_value_heads));
  put('attention.key_length', u32(headDim));
  put('attention.value_length', u32(headDim));
  put('attention.layer_norm_rms_epsilon', f32(config.rms_norm_eps));
  put('rope.dimension_count', u32(headDim));
  put('rope.freq_base', f32(config.rope_theta));
  const { rope_scaling: scaling, sliding_window: window, layer_types: types } = config;
  if (window) put('attention.sliding_window', u32(window));
  if (window && types)
    put(
      'attention.sliding_window_pattern',
      types.map((type) => type === 'sliding_attention'),
    );
  if (scaling?.rope_type === 'linear' || scaling?.rope_type === 'yarn') {
    put('rope.scaling.type', scaling.rope_type);
    put('rope.scaling.factor', f32(scaling['factor']!));
    if (scaling.rope_type === 'yarn') {
      put('rope.scaling.original_context_length', u32(scaling['original_max_position_embeddings']!));
    }
  }
  return metadata;
}
