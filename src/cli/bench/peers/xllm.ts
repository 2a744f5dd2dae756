// Owns our own server as one of the systems compared.
import { fileURLToPath } from 'node:url';
import { BUILD } from '../../../contract/protocol.ts';
import { callJson } from '../http-json.ts';
import { apiUrl } from '../target.ts';
import type { Launch, Peer, PreparedPeer, StepTotals } from './peer.ts';

const entry = fileURLToPath(new URL('../../../../bin/xllm.js', import.meta.url));

/** Longest sequence served: as in the peers' single-stream setting. */
const MAX_MODEL_LEN = 4096;

export interface Completion {
  readonly token_ids?: readonly number[];
  readonly logprobs?: { readonly top_logprobs?: readonly Readonly<Record<string, number>>[] | null } | null;
}

/** One greedy completion of token ids, with the two best log-probabilities of every step. */
export async function completeGreedily(
  url: string,
  promptIds: readonly number[],
  maxTokens: number,
  isEosIgnored: boolean,
  signal: AbortSignal,
): Promise<Completion> {
  const body = {
    prompt: promptIds,
    max_tokens: maxTokens,
    temperature: 0,
    ignore_eos: isEosIgnored,
    logprobs: 2,
    return_token_ids: true,
    // Two tokens may share a text; their ids differ.
    return_tokens_as_token_ids: true,
  };
  const reply = await callJson(apiUrl(url, '/v1/completions'), { body, signal });
  const choice = reply.status === 200 ? (reply.json() as { choices: Completion[] }).choices[0] : undefined;
  if (choice === undefined) throw new Error(`the server answered ${reply.status}: ${reply.text.slice(0, 200)}`);
  return choice;
}

async function stepTotals(url: string, signal: AbortSignal): Promise<StepTotals> {
  const { text } = await callJson(apiUrl(url, '/metrics'), { signal });
  const total = (name: string): number => {
    const value = new RegExp(`^xllm:${name}(?:{.*})? (\\S+)$`, 'm').exec(text)?.[1];
    if (value === undefined) throw new Error(`/metrics has no xllm:${name}`);
    return Number(value);
  };
  return {
    steps: total('engine_steps_total'),
    eventLoopCpuUs: total('engine_event_loop_cpu_seconds_total') * 1e6,
  };
}

/** `name`: how figures call this variant; `extraArgs`: further flags of `xllm serve`. */
export function xllm(name: string, extraArgs: readonly string[]): Peer {
  return {
    name,
    prepare: ({ modelPath }): Promise<PreparedPeer> =>
      Promise.resolve({
        name,
        version: BUILD,
        notes: extraArgs.length > 0 ? [`started with ${extraArgs.join(' ')}`] : [],
        hasOtherWeights: false,
        readyPath: '/ready',
        isKeepAlive: true,
        command: ({ port, threads }: Launch) => ({
          file: process.execPath,
          // biome-ignore format: one flag and its value at a time
          args: [
            entry, 'serve', modelPath, '--host', '127.0.0.1', '--port', String(port), '--threads', String(threads),
            '--max-model-len', String(MAX_MODEL_LEN), '--log-level', 'error', ...extraArgs,
          ],
        }),
        greedyTokens: async (url, promptIds, maxTokens, signal) => {
          const { token_ids: ids } = await completeGreedily(url, promptIds, maxTokens, false, signal);
          if (ids === undefined) throw new Error('the server returned no token_ids');
          return [...ids];
        },
        stepTotals,
      }),
  };
}
