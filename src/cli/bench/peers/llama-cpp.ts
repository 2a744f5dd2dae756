// Owns llama.cpp's server as a peer: its best settings on a CPU, and how to ask it for token ids.
import { execFile } from 'node:child_process';
import { existsSync, renameSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { callJson } from '../http-json.ts';
import { llamaCppRecipe, llamaCppVersion } from './llama-cpp-build.ts';
import type { Launch, Peer, PeerProduct, PrepareContext, PreparedPeer, ServerShape } from './peer.ts';
import { recipeFolder } from './recipe.ts';

const run = promisify(execFile);

/** Slots share the context evenly: 1,280 tokens each in a batch. */
const SLOTS: Record<ServerShape, readonly string[]> = {
  single: ['-np', '1', '-c', '4096'],
  batch: ['-np', '32', '-c', '40960'],
};

async function greedyTokens(
  url: string,
  promptIds: readonly number[],
  maxTokens: number,
  signal: AbortSignal,
): Promise<number[]> {
  // Its own API: the OpenAI one returns no ids.
  const body = { prompt: promptIds, n_predict: maxTokens, temperature: 0, return_tokens: true, cache_prompt: false };
  const reply = await callJson(new URL('/completion', url), { body, signal });
  const { tokens } = reply.json() as { tokens?: number[] };
  if (tokens === undefined) throw new Error(`llama-server answered ${reply.status}: ${reply.text.slice(0, 200)}`);
  return tokens;
}

/** The form of the weights that llama.cpp's fastest products exist for; made once, beside the build. */
async function requantise(context: PrepareContext, binFolder: string, format: string): Promise<string> {
  const { modelPath, cacheFolder, signal, log } = context;
  const path = join(recipeFolder(llamaCppRecipe, cacheFolder), `${basename(modelPath, '.gguf')}.to-${format}.gguf`);
  if (existsSync(path)) return path;
  log(`llama.cpp: requantising to ${format} …`);
  const part = `${path}.part`;
  rmSync(part, { force: true });
  await run(join(binFolder, 'llama-quantize'), ['--allow-requantize', modelPath, part, format], { signal });
  renameSync(part, path);
  return path;
}

/** Q4_1 has no repacked path there: with its Q4_0 form it is about twice as fast, so it gets both. */
export const llamaCppProduct: PeerProduct = {
  recipe: llamaCppRecipe,
  cost: 'built from source, about 12 minutes, 0.3 GB',
  systems: (matrixDType) => [llamaCpp(null), ...(matrixDType === 'Q4_1' ? [llamaCpp('Q4_0')] : [])],
};

/** `format`: serve the weights requantised so, instead of as they are. */
export function llamaCpp(format: string | null): Peer {
  const name = format === null ? 'llama.cpp' : `llama.cpp:${format}`;
  return {
    name,
    async prepare(context): Promise<PreparedPeer> {
      const binFolder = join(recipeFolder(llamaCppRecipe, context.cacheFolder), 'build', 'bin');
      const modelPath = format === null ? context.modelPath : await requantise(context, binFolder, format);
      return {
        name,
        version: llamaCppVersion,
        notes: format === null ? [] : [`serves the weights requantised to ${format}`],
        hasOtherWeights: format !== null,
        readyPath: '/health',
        isKeepAlive: false, // half the requests on a reused connection fail
        command: ({ shape, port, threads }: Launch) => ({
          file: join(binFolder, 'llama-server'),
          // biome-ignore format: one flag and its value at a time
          args: [
            '-m', modelPath, '--host', '127.0.0.1', '--port', String(port),
            '-t', String(threads), '-tb', String(threads), '-fa', 'on', '-b', '2048', '-ub', '512',
            '--cache-ram', '0', ...SLOTS[shape],
          ],
        }),
        greedyTokens,
        stepTotals: () => Promise.resolve(null),
      };
    },
  };
}
