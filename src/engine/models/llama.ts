// Owns Llama 2 and 3, and what else ships under that name (SmolLM, TinyLlama, …): the common decoder.
import { type Architecture, withWindows } from './architecture.ts';

export const llama: Architecture = {
  hfName: 'LlamaForCausalLM',
  ggufName: 'llama',
  // llama.cpp's converter permutes the rows of q and k so that rotated pairs are neighbours.
  fromGguf: (fields, common) => {
    // Mistral's files may carry a window, too.
    const key = 'attention.sliding_window';
    const window = fields.has(key) ? fields.count(key) : null;
    return { ropePairs: 'adjacent', layers: withWindows(common, () => window) };
  },
};
