// Reading descriptions: both styles of config.json, GGUF metadata, what is refused, and which cache groups result.
import { describe, expect, it } from 'vitest';
import type { XllmError } from '../../common/errors.ts';
import type { GgufFile, GgufValue, JsonObject, SafetensorsFolder, TensorInfo } from '../../files/weights-file.ts';
import { cacheGroups } from './config.ts';
import { readModelConfig } from './registry.ts';

const base = {
  hidden_size: 64,
  intermediate_size: 128,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_hidden_layers: 3,
  max_position_embeddings: 256,
  vocab_size: 320,
  rms_norm_eps: 1e-6,
  eos_token_id: 2,
};

const folder = (config: JsonObject, generationConfig?: JsonObject) =>
  ({
    kind: 'safetensors',
    config: { ...base, ...config },
    generationConfig,
    tensors: new Map(),
  }) as unknown as SafetensorsFolder;
const hf = (name: string, config: JsonObject = {}, generation?: JsonObject) =>
  readModelConfig(folder({ architectures: [name], ...config }, generation));

const refusal = (promise: Promise<unknown>) =>
  promise.then(
    () => null,
    (error: XllmError) => ({ code: error.code, message: error.message }),
  );

describe('config.json', () => {
  it('is read in both styles', async () => {
    const published = await hf('LlamaForCausalLM', {
      rope_theta: 500_000,
      rope_scaling: { type: 'linear', factor: 4 },
    });
    const saved = await hf('LlamaForCausalLM', {
      rope_parameters: { rope_theta: 500_000, rope_type: 'linear', factor: 4 },
    });
    expect(published).toEqual(saved);
    expect(saved.layers[0]?.rope).toEqual({ base: 500_000, scaling: { type: 'linear', factor: 4 } });
    expect(saved).toMatchObject({ headDim: 16, attentionScale: 0.25, ropePairs: 'halves', activation: 'silu' });
  });

  it('joins stop ids of both files', async () => {
    const { stopTokenIds } = await hf(
      'LlamaForCausalLM',
      { eos_token_id: [128_009, 128_001] },
      { eos_token_id: [128_008, 128_009] },
    );
    expect(stopTokenIds).toEqual([128_001, 128_008, 128_009]);
  });

  it('gives Mistral one window, or none', async () => {
    const windows = async (config: JsonObject) =>
      (await hf('MistralForCausalLM', config)).layers.map(({ window }) => window);
    expect(await windows({ sliding_window: 8 })).toEqual([8, 8, 8]);
    expect(await windows({ sliding_window: null })).toEqual([null, null, null]);
  });

  it('slides the layers of Qwen only where the config says so', async () => {
    const windows = async (config: JsonObject) =>
      (await hf('Qwen2ForCausalLM', config)).layers.map(({ window }) => window);
    expect(await windows({ sliding_window: 8, use_sliding_window: false })).toEqual([null, null, null]);
    expect(await windows({ sliding_window: 8, use_sliding_window: true, max_window_layers: 2 })).toEqual([
      null,
      null,
      8,
    ]);
  });

  it('makes Gemma 3 two cache groups with ropes of their own', async () => {
    const config = await hf('Gemma3ForCausalLM', {
      hidden_activation: 'gelu_pytorch_tanh',
      sliding_window: 512,
      sliding_window_pattern: 3,
      rope_theta: 1e6,
      rope_local_base_freq: 10_000,
      query_pre_attn_scalar: 16,
    });
    expect(config).toMatchObject({ normOffset: 1, embeddingScale: 8, attentionScale: 0.25, activation: 'gelu_tanh' });
    expect(config.layers.map(({ rope }) => rope.base)).toEqual([10_000, 10_000, 1e6]);
    expect(cacheGroups(config, 'f16')).toMatchObject([
      { name: 'window-512', layers: [0, 1], kind: { type: 'window', numTokens: 512 }, keyDim: 16, element: 'f16' },
      { name: 'global', layers: [2], kind: { type: 'paged' }, numKvHeads: 2 },
    ]);
  });

  it('names what is missing or wrong', async () => {
    expect(await refusal(hf('LlamaForCausalLM', { hidden_size: -1 }))).toEqual({
      code: 'model_file_invalid',
      message: 'config.json: "hidden_size" must be a positive integer, is -1',
    });
    expect(await refusal(hf('LlamaForCausalLM', { num_hidden_layers: undefined }))).toMatchObject({
      message: 'config.json: "num_hidden_layers" must be a number, is missing',
    });
    expect(await refusal(hf('LlamaForCausalLM', { rope_scaling: { rope_type: 'linear' } }))).toMatchObject({
      message: 'config.json, rope_scaling: "factor" must be a number, is missing',
    });
  });

  it.each([
    ['MixtralForCausalLM', {}, /MixtralForCausalLM is not supported; supported: LlamaForCausalLM, .*Gemma3ForCausalLM/],
    ['LlamaForCausalLM', { hidden_act: 'relu' }, /activation relu/],
    ['LlamaForCausalLM', { rope_scaling: { rope_type: 'longrope' } }, /rope scaling longrope/],
    ['LlamaForCausalLM', { partial_rotary_factor: 0.5 }, /a part of each head/],
    ['LlamaForCausalLM', { num_key_value_heads: 3 }, /4 heads cannot share 3/],
    ['Gemma3ForCausalLM', { sliding_window: 8, final_logit_softcapping: 30 }, /final_logit_softcapping/],
    ['Gemma3ForCausalLM', { sliding_window: 8, use_bidirectional_attention: true }, /use_bidirectional_attention/],
  ] as const)('refuses %s with %j', async (name, config, message) => {
    expect(await refusal(hf(name, config))).toMatchObject({
      code: 'model_unsupported',
      message: expect.stringMatching(message) as string,
    });
  });
});

describe('GGUF metadata', () => {
  const llama: Record<string, GgufValue> = {
    'general.architecture': 'llama',
    'llama.embedding_length': 64,
    'llama.feed_forward_length': 128,
    'llama.attention.head_count': 4,
    'llama.attention.head_count_kv': 2,
    'llama.block_count': 2,
    'llama.context_length': 256,
    'llama.attention.layer_norm_rms_epsilon': 1e-5,
    'tokenizer.ggml.eos_token_id': 2,
  };
  const gguf = (extra: Record<string, GgufValue> = {}) =>
    readModelConfig({
      kind: 'gguf',
      metadata: new Map(Object.entries({ ...llama, ...extra })),
      tensors: new Map([['token_embd.weight', { shape: [320, 64] } as unknown as TensorInfo]]),
    } as unknown as GgufFile);

  it('is read', async () => {
    expect(await gguf()).toMatchObject({
      architecture: 'LlamaForCausalLM',
      vocabSize: 320,
      numIds: 320,
      ropePairs: 'adjacent',
      stopTokenIds: [2],
      layers: [{ window: null, rope: { base: 10_000 } }, { window: null }],
    });
  });

  it('finds the ends of turns, by key or by text', async () => {
    const tokens = ['a', '<|endoftext|>', '</s>', '<|eot_id|>'];
    expect((await gguf({ 'tokenizer.ggml.tokens': tokens })).stopTokenIds).toEqual([1, 2, 3]);
    expect((await gguf({ 'tokenizer.ggml.tokens': tokens, 'tokenizer.ggml.eot_token_id': 3 })).stopTokenIds).toEqual([
      2, 3,
    ]);
  });

  it('counts ids that have a token', async () => {
    expect((await gguf({ 'tokenizer.ggml.tokens': ['a', 'b'] })).numIds).toBe(2);
  });

  it.each([
    [{ 'general.architecture': 'mamba' }, /mamba is not supported; supported: llama, qwen2, qwen3, gemma3/],
    [{ 'llama.expert_count': 8 }, /experts/],
    [{ 'llama.rope.dimension_count': 8 }, /a part of each head/],
    [{ 'llama.attention.value_length': 32 }, /different sizes/],
    [{ 'llama.rope.scaling.type': 'longrope' }, /rope scaling longrope/],
  ] as const)('refuses %j', async (extra, message) => {
    expect(await refusal(gguf(extra))).toMatchObject({
      code: 'model_unsupported',
      message: expect.stringMatching(message) as string,
    });
  });
});
