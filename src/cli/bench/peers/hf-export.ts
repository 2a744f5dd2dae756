// Owns a GGUF's weights as a Hugging Face folder in BF16, for systems that read nothing else: config.json, safetensors.
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { XllmError } from '../../../common/errors.ts';
import { openGgml } from '../../../engine/ffi/ggml.ts';
import type { ModelConfig } from '../../../engine/models/config.ts';
import { ggufNames, huggingFaceNames, layerParts } from '../../../engine/models/names.ts';
import { readModelConfig } from '../../../engine/models/registry.ts';
import { bytesOf, type DType, dtypes } from '../../../files/dtype.ts';
import { encodeTensor } from '../../../files/encode-tensor.ts';
import { openWeights } from '../../../files/open-weights.ts';
import type { GgufFile, TensorInfo } from '../../../files/weights-file.ts';

const MODEL_TYPES: Readonly<Record<string, string>> = {
  LlamaForCausalLM: 'llama',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
};

/** Writes the folder unless it is there; what an interrupted run left is written anew. Throws XllmError `usage`. */
export async function exportHuggingFace(ggufPath: string, folder: string): Promise<void> {
  if (existsSync(folder)) return;
  const file = await openWeights(ggufPath);
  try {
    if (file.kind !== 'gguf') throw new XllmError('usage', `${ggufPath} is no GGUF file`);
    const config = await readModelConfig(file);
    const part = `${folder}.part`;
    rmSync(part, { recursive: true, force: true });
    mkdirSync(part, { recursive: true });
    writeFileSync(join(part, 'config.json'), JSON.stringify(hfConfig(config, file), null, 2));
    await writeTensors(join(part, 'model.safetensors'), config, file);
    renameSync(part, folder);
  } finally {
    file.close();
  }
}

/** As published and as transformers 5 saves it: readers of either find the rotation's base. */
function hfConfig(config: ModelConfig, file: GgufFile): Record<string, unknown> {
  const modelType = MODEL_TYPES[config.architecture];
  const [layer] = config.layers;
  if (modelType === undefined || config.layers.some(({ window }) => window !== null))
    throw new XllmError('usage', `${config.architecture} is not exported; ${Object.keys(MODEL_TYPES).join(', ')} are`);
  if (layer?.rope.scaling.type !== 'none') throw new XllmError('usage', 'scaled rotations are not exported');
  return {
    architectures: [config.architecture],
    model_type: modelType,
    hidden_size: config.hiddenSize,
    intermediate_size: config.ffnSize,
    num_hidden_layers: config.layers.length,
    num_attention_heads: config.numHeads,
    num_key_value_heads: config.numKvHeads,
    head_dim: config.headDim,
    hidden_act: config.activation,
    rms_norm_eps: config.normEps,
    rope_theta: layer.rope.base,
    rope_parameters: { rope_type: 'default', rope_theta: layer.rope.base },
    max_position_embeddings: config.maxPositions,
    vocab_size: config.vocabSize,
    tie_word_embeddings: !file.tensors.has(`${ggufNames.model.head}.weight`),
    attention_bias: file.tensors.has(`${ggufNames.layer(0, 'q')}.bias`),
    mlp_bias: false,
    eos_token_id: config.stopTokenIds,
    torch_dtype: 'bfloat16',
  };
}

interface Renamed {
  readonly source: TensorInfo;
  readonly name: string;
  /** Rows per head, where the file has the rotated pairs side by side and Hugging Face has halves; else null. */
  readonly pairedRows: number | null;
}

function renamed(config: ModelConfig, file: GgufFile): Renamed[] {
  const hf = huggingFaceNames(true);
  const isPaired = config.ropePairs === 'adjacent';
  const pairs = [
    ...(['embedding', 'outputNorm', 'head'] as const).map(
      (part) => [ggufNames.model[part], hf.model[part], false] as const,
    ),
    ...[...config.layers.keys()].flatMap((layer) =>
      layerParts.map(
        (part) =>
          [ggufNames.layer(layer, part), hf.layer(layer, part), isPaired && (part === 'q' || part === 'k')] as const,
      ),
    ),
  ];
  return pairs.flatMap(([from, to, isRotated]) =>
    ['weight', 'bias'].flatMap((suffix) => {
      const source = file.tensors.get(`${from}.${suffix}`);
      return source ? [{ source, name: `${to}.${suffix}`, pairedRows: isRotated ? config.headDim : null }] : [];
    }),
  );
}

async function writeTensors(path: string, config: ModelConfig, file: GgufFile): Promise<void> {
  const tensors = renamed(config, file);
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let end = 0;
  for (const { name, source } of tensors) {
    const start = end;
    end += bytesOf('BF16', source.numElements);
    header[name] = { dtype: 'BF16', shape: source.shape, data_offsets: [start, end] };
  }
  const text = JSON.stringify(header);
  const json = Buffer.from(text.padEnd(Math.ceil(Buffer.byteLength(text) / 8) * 8)); // data starts at a multiple of 8
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const output = await open(path, 'w');
  try {
    await output.writev([length, json]);
    for (const tensor of tensors) await writeTensor(output, tensor, file);
  } finally {
    await output.close();
  }
}

/** About this many elements are in memory at a time. */
const PIECE_ELEMENTS = 2 ** 20;

async function writeTensor(output: FileHandle, { source, pairedRows }: Renamed, file: GgufFile): Promise<void> {
  const rowElements = source.shape.at(-1) ?? 1;
  const rowBytes = bytesOf(source.dtype, rowElements);
  const numRows = source.numElements / rowElements;
  const unit = pairedRows ?? 1;
  const rowsAtOnce = Math.max(1, Math.floor(PIECE_ELEMENTS / rowElements / unit)) * unit;
  for (let row = 0; row < numRows; row += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, numRows - row);
    const raw = new Uint8Array(rows * rowBytes);
    await file.read(source, raw, row * rowBytes);
    const values = widened(source.dtype, raw, rows * rowElements);
    const ordered = pairedRows === null ? values : halvesOfPairs(values, pairedRows, rowElements);
    const bytes = new Uint8Array(bytesOf('BF16', ordered.length));
    encodeTensor('BF16', ordered, bytes);
    await output.writeFile(bytes);
  }
}

function widened(dtype: DType, bytes: Uint8Array, count: number): Float32Array {
  const values = new Float32Array(count);
  const { ggmlType } = dtypes[dtype];
  if (dtype === 'F32') new Uint8Array(values.buffer).set(bytes);
  else if (ggmlType === undefined) throw new XllmError('usage', `${dtype} weights are not exported`);
  else openGgml().dequantizeRow(ggmlType, bytes, values);
  return values;
}

/** llama.cpp's converter makes row 2j + i of a head of what Hugging Face has in row i * headDim / 2 + j: undone. */
export function halvesOfPairs(values: Float32Array, headDim: number, rowElements: number): Float32Array {
  const result = new Float32Array(values.length);
  const half = headDim / 2;
  for (let row = 0; row < values.length / rowElements; row++) {
    const inHead = row % headDim;
    const target = row - inHead + (inHead % half) * 2 + Math.floor(inHead / half);
    result.set(values.subarray(target * rowElements, (target + 1) * rowElements), row * rowElements);
  }
  return result;
}
