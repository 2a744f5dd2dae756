// Owns Mistral: Llama with a sliding window in every layer. Its GGUF files call themselves llama.
import { type Architecture, withWindows } from './architecture.ts';

export const mistral: Architecture = {
  hfName: 'MistralForCausalLM',
  ggufName: null,
  fromHf: (fields, common) => {
    const window = fields.has('sliding_window') ? fields.count('sliding_window') : null;
    return { layers: withWindows(common, () => window) };
  },
};
