// Owns dense Qwen 2, 2.5 (bias on q, k, v) and 3 (norms on q and k): what is there shows in the tensors.
import { type Architecture, type ConfigDelta, withWindows } from './architecture.ts';
import type { ModelConfig } from './config.ts';
import type { Fields } from './fields.ts';
import { slidingLayers } from './hf-config.ts';

/** Off in all published checkpoints; where it is on, layers from max_window_layers up slide. */
function fromHf(fields: Fields, common: ModelConfig): ConfigDelta {
  if (!fields.flag('use_sliding_window', false) || !fields.has('sliding_window')) return {};
  const window = fields.count('sliding_window');
  const firstSliding = fields.number('max_window_layers', common.layers.length);
  const isSliding = slidingLayers(fields, (layer) => layer >= firstSliding);
  return { layers: withWindows(common, (layer) => (isSliding(layer) ? window : null)) };
}

export const qwen2: Architecture = { hfName: 'Qwen2ForCausalLM', ggufName: 'qwen2', fromHf };
export const qwen3: Architecture = { hfName: 'Qwen3ForCausalLM', ggufName: 'qwen3', fromHf };
