// Owns `xllm models inspect`: what is in a model's files, without loading it.
import { openWeights } from '../../files/open-weights.ts';
import { resolveModel } from '../../files/resolve/resolve-model.ts';
import { modelSettings } from '../../files/resolve/settings.ts';
import type { GgufValue, Json, JsonObject, TensorInfo, WeightsFile } from '../../files/weights-file.ts';
import type { BenchIo } from '../bench/io.ts';
import { formatPairs, formatTable } from '../bench/table.ts';
import type { ModelsOptions } from './options.ts';
import { megabytes } from './units.ts';

const maxValueLength = 100;
const maxElements = 8;

/** Never fetches: a model that is not here is pulled first. Throws XllmError. */
export async function inspectModel(
  options: ModelsOptions<'inspect'>,
  spec: string | undefined,
  io: BenchIo,
): Promise<void> {
  const settings = modelSettings(io.env, { cacheFolder: options.cache, isOffline: true });
  const { name, path } = await resolveModel(spec, { settings, signal: io.signal });
  const file = await openWeights(path);
  try {
    const tensors = [...file.tensors.values()];
    const isStyled = io.stdout.isTTY === true;
    io.stdout.write(formatPairs([['model', name], ['path', path], ...summary(file, tensors)]));
    io.stdout.write(`\n${formatTable(['format', 'tensors', 'elements', 'size'], formats(tensors), isStyled)}`);
    io.stdout.write(`\n${formatPairs(entries(file))}`);
    if (options.tensors) {
      const rows = tensors.map(({ name: tensor, dtype, shape }) => [shown(tensor), dtype, shape.join(' x ')]);
      io.stdout.write(`\n${formatTable(['tensor', 'format', 'shape'], rows, isStyled)}`);
    }
  } finally {
    file.close();
  }
}

type Pair = readonly [label: string, value: string];

function summary(file: WeightsFile, tensors: readonly TensorInfo[]): readonly Pair[] {
  const weightBytes = tensors.reduce((sum, { numBytes }) => sum + numBytes, 0);
  const numElements = tensors.reduce((sum, tensor) => sum + tensor.numElements, 0);
  const pairs: Pair[] = [
    ['architecture', architectureOf(file)],
    ['container', `${file.kind}, ${file.files.length} file${file.files.length === 1 ? '' : 's'}`],
    ['parameters', `${(numElements / 1e6).toFixed(1)} million in ${tensors.length} tensors`],
    ['weights', megabytes(weightBytes)],
  ];
  const kvBytes = kvBytesPerToken(file);
  if (kvBytes !== undefined) {
    pairs.push([
      'KV cache in F16',
      `${(kvBytes / 1024).toFixed(1)} KiB per token, ${megabytes(kvBytes * 4096)} for 4096`,
    ]);
  }
  return pairs;
}

function architectureOf(file: WeightsFile): string {
  if (file.kind === 'gguf') return shown(file.metadata.get('general.architecture') ?? 'not stated');
  const architectures = file.config['architectures'];
  return Array.isArray(architectures) ? shown(architectures.join(', ')) : 'not stated';
}

/** K and V of all layers, 2 bytes each; undefined where the model does not say what it takes. */
function kvBytesPerToken(file: WeightsFile): number | undefined {
  const number = file.kind === 'gguf' ? ggufNumbers(file.metadata) : configNumbers(file.config);
  const { layers, heads, kvHeads = heads, hidden } = number;
  const headDim = number.headDim ?? (hidden === undefined || heads === undefined ? undefined : hidden / heads);
  if (layers === undefined || kvHeads === undefined || headDim === undefined) return undefined;
  return layers * kvHeads * headDim * 2 * 2;
}

type ShapeKey = 'layers' | 'heads' | 'kvHeads' | 'hidden' | 'headDim';
type ShapeNumbers = { readonly [K in ShapeKey]?: number };

function pickNumbers(names: Readonly<Record<ShapeKey, string>>, get: (name: string) => unknown): ShapeNumbers {
  const found = Object.entries(names).map(([key, name]) => [key, get(name)]);
  return Object.fromEntries(found.filter(([, value]) => typeof value === 'number')) as ShapeNumbers;
}

function ggufNumbers(metadata: ReadonlyMap<string, GgufValue>): ShapeNumbers {
  const names = {
    layers: 'block_count',
    heads: 'attention.head_count',
    kvHeads: 'attention.head_count_kv',
    hidden: 'embedding_length',
    headDim: 'attention.key_length',
  };
  const architecture = String(metadata.get('general.architecture'));
  return pickNumbers(names, (name) => metadata.get(`${architecture}.${name}`));
}

function configNumbers(config: JsonObject): ShapeNumbers {
  const names = {
    layers: 'num_hidden_layers',
    heads: 'num_attention_heads',
    kvHeads: 'num_key_value_heads',
    hidden: 'hidden_size',
    headDim: 'head_dim',
  };
  return pickNumbers(names, (name) => config[name]);
}

function formats(tensors: readonly TensorInfo[]): (string | number)[][] {
  const byFormat = Map.groupBy(tensors, ({ dtype }) => dtype);
  return [...byFormat].map(([dtype, members]) => [
    dtype,
    members.length,
    members.reduce((sum, { numElements }) => sum + numElements, 0),
    megabytes(members.reduce((sum, { numBytes }) => sum + numBytes, 0)),
  ]);
}

/** Metadata of a GGUF file, config.json of the others; long values are cut. */
function entries(file: WeightsFile): readonly Pair[] {
  const pairs: [string, GgufValue | Json | undefined][] =
    file.kind === 'gguf' ? [...file.metadata] : Object.entries(file.config);
  return pairs.map(([key, value]) => [shown(key), shown(value)]);
}

/** Control characters escaped: a file must not steer the terminal. */
function shown(value: GgufValue | Json | undefined): string {
  if (ArrayBuffer.isView(value) || (Array.isArray(value) && value.length > maxElements)) {
    const { length } = value as ArrayLike<unknown>;
    const first = Array.from({ length: Math.min(length, maxElements) }, (_, i) => (value as ArrayLike<Json>)[i]);
    return `${length} values: ${shortened(jsonOf(first))}`;
  }
  return shortened(typeof value === 'string' ? jsonOf(value).slice(1, -1) : jsonOf(value));
}

/** JSON has no form for 64-bit integers beyond the safe ones. */
function jsonOf(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) => (typeof part === 'bigint' ? String(part) : part));
}

function shortened(text: string): string {
  return text.length <= maxValueLength ? text : `${text.slice(0, maxValueLength)} … (${text.length} characters)`;
}
