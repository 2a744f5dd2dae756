// Owns the list of rivals.
import type { PeerName } from '../compare-options.ts';
import { llamaCppProduct } from './llama-cpp.ts';
import { openvinoProduct } from './openvino.ts';
import type { PeerProduct } from './peer.ts';
import { vllmProduct } from './vllm.ts';

export const peerProducts: Readonly<Record<PeerName, PeerProduct>> = {
  'llama.cpp': llamaCppProduct,
  openvino: openvinoProduct,
  vllm: vllmProduct,
};
