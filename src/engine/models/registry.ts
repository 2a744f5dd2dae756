// Owns the list of supported architectures and the choice among them.
import { XllmError } from '../../common/errors.ts';
import type { WeightsFile } from '../../files/weights-file.ts';
import type { Architecture } from './architecture.ts';
import type { ModelConfig } from './config.ts';
import { Fields } from './fields.ts';
import { gemma3Text } from './gemma3.ts';
import { type GgufTensorFacts, ggufArchitecture, readGgufConfig } from './gguf-config.ts';
import { readHfConfig } from './hf-config.ts';
import { llama } from './llama.ts';
import { mistral } from './mistral.ts';
import { qwen2, qwen3 } from './qwen.ts';

const architectures: readonly Architecture[] = [llama, mistral, qwen2, qwen3, gemma3Text];

/**
 * The model's description. Throws XllmError model_unsupported for an architecture or option that is not there,
 * model_file_invalid for missing or wrong fields.
 */
export async function readModelConfig(file: WeightsFile): Promise<ModelConfig> {
  return check(file.kind === 'gguf' ? await fromGguf(file) : fromHf(file));
}

function fromHf(file: Extract<WeightsFile, { kind: 'safetensors' }>): ModelConfig {
  const fields = Fields.ofJson(file.config, 'config.json');
  const name = fields.firstText('architectures');
  const architecture = find(name, architectures, (known) => known.hfName);
  const generation = file.generationConfig ? Fields.ofJson(file.generationConfig, 'generation_config.json') : null;
  const common = readHfConfig(fields, generation, architecture.hfName);
  return { ...common, ...architecture.fromHf?.(fields, common) };
}

async function fromGguf(file: Extract<WeightsFile, { kind: 'gguf' }>): Promise<ModelConfig> {
  const name = ggufArchitecture(file.metadata);
  const architecture = find(name, architectures, (known) => known.ggufName);
  const fields = Fields.ofGguf(file.metadata, name);
  const common = readGgufConfig(fields, await tensorFacts(file), architecture.hfName);
  return { ...common, ...architecture.fromGguf?.(fields, common) };
}

async function tensorFacts(file: Extract<WeightsFile, { kind: 'gguf' }>): Promise<GgufTensorFacts> {
  const vocabSize = file.tensors.get('token_embd.weight')?.shape[0];
  if (vocabSize === undefined) {
    throw new XllmError('model_file_invalid', 'the GGUF file has no matrix token_embd.weight');
  }
  const factors = file.tensors.get('rope_freqs.weight');
  if (!factors) return { vocabSize, ropeFactors: null };
  if (factors.dtype !== 'F32') throw new XllmError('model_file_invalid', 'rope_freqs.weight must be F32');
  const ropeFactors = new Float32Array(factors.numElements);
  await file.read(factors, new Uint8Array(ropeFactors.buffer));
  return { vocabSize, ropeFactors };
}

function find(
  name: string,
  known: readonly Architecture[],
  nameOf: (architecture: Architecture) => string | null,
): Architecture {
  const found = known.find((architecture) => nameOf(architecture) === name);
  if (found) return found;
  const names = known.map(nameOf).filter((each) => each !== null);
  throw new XllmError('model_unsupported', `architecture ${name} is not supported; supported: ${names.join(', ')}`);
}

/** Shapes that later code relies on. */
function check(config: ModelConfig): ModelConfig {
  const { headDim, numHeads, numKvHeads, layers } = config;
  const fault = (what: string) => new XllmError('model_unsupported', `${config.architecture}: ${what}`);
  if (!Number.isInteger(headDim) || headDim % 2 !== 0) throw fault(`head size ${headDim} is not an even number`);
  if (numHeads % numKvHeads !== 0) throw fault(`${numHeads} heads cannot share ${numKvHeads} key/value heads`);
  for (const { rope } of layers) {
    if (rope.scaling.type === 'factors' && rope.scaling.factors.length !== headDim / 2) {
      throw fault(`${rope.scaling.factors.length} rope factors for heads of ${headDim}`);
    }
  }
  return config;
}
