// Owns OpenVINO GenAI as a peer: its set-up, and its pipeline behind our own front, since it comes without a server.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { DType } from '../../../files/dtype.ts';
import { callJson } from '../http-json.ts';
import type { Launch, Peer, PeerProduct, PreparedPeer } from './peer.ts';
import { moveOver, type Recipe, recipeFolder } from './recipe.ts';

const VERSION = '2026.4.1.0';
const PACKAGES = [
  `openvino-genai==${VERSION}`,
  `openvino-tokenizers==${VERSION}`,
  'openvino==2026.4.1',
  'numpy==2.4.6',
];

const front = fileURLToPath(new URL('./openvino-server.py', import.meta.url));

const recipe: Recipe = {
  name: 'openvino',
  version: VERSION,
  tools: ['python3'],
  debianPackages: 'python3 python3-venv',
  steps: (at) => [
    {
      name: 'installing (0.3 GB)',
      isDone: () => existsSync(at('venv')),
      commands: [
        ['python3', '-m', 'venv', 'venv.part'],
        ['venv.part/bin/python', '-m', 'pip', 'install', '-q', ...PACKAGES],
        ['venv.part/bin/python', '-c', 'import openvino_genai'],
      ],
      after: () => moveOver(at('venv.part'), at('venv')),
    },
  ],
};

/** The continuation of a completion that returns its ids. */
export async function completionIds(
  url: string,
  body: { readonly prompt: readonly number[] } & Readonly<Record<string, unknown>>,
  signal: AbortSignal,
): Promise<number[]> {
  const reply = await callJson(new URL('/v1/completions', url), { body, signal });
  const ids =
    reply.status === 200 ? (reply.json() as { choices: { token_ids?: number[] }[] }).choices[0]?.token_ids : null;
  if (!ids) throw new Error(`the server answered ${reply.status}: ${reply.text.slice(0, 200)}`);
  return ids;
}

/** Tried: float32 throughout, a float cache, no dynamic quantisation. So it lies in how it reads the file. */
const Q4_1_NOTE = 'answers wrongly from Q4_1 weights in every precision, rightly from Q4_0';

const openvino = (matrixDType: DType): Peer => ({
  name: 'openvino',
  prepare: ({ modelPath, cacheFolder }): Promise<PreparedPeer> =>
    Promise.resolve({
      name: 'openvino',
      version: VERSION,
      notes: [
        'its pipeline behind a thin front of ours that never turns ids into text',
        ...(matrixDType === 'Q4_1' ? [Q4_1_NOTE] : []),
      ],
      hasOtherWeights: false,
      readyPath: '/health',
      isKeepAlive: true,
      command: ({ port, threads }: Launch) => ({
        file: join(recipeFolder(recipe, cacheFolder), 'venv', 'bin', 'python'),
        // biome-ignore format: one flag and its value at a time
        args: [
          front, '--model', modelPath, '--port', String(port), '--threads', String(threads),
          '--cache-gb', '4', '--max-num-seqs', '32', '--max-num-batched-tokens', '512',
        ],
      }),
      greedyTokens: (url, prompt, maxTokens, signal) => completionIds(url, { prompt, max_tokens: maxTokens }, signal),
      stepTotals: () => Promise.resolve(null),
    }),
});

export const openvinoProduct: PeerProduct = {
  recipe,
  cost: 'from PyPI, a minute, 0.3 GB',
  systems: (matrixDType) => [openvino(matrixDType)],
};
