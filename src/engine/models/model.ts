// Owns a loaded model: its description and its weights in memory, ready to be used in graphs.
import { invariant } from '../../common/errors.ts';
import type { WeightsFile } from '../../files/weights-file.ts';
import type { Ggml } from '../ffi/ggml.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { KvElement } from '../kv/cache-group.ts';
import { isFloatType, type TensorType } from '../tensor/dtype.ts';
import { TensorSpace } from '../tensor/graph.ts';
import type { Rope } from '../tensor/ops.ts';
import { EmittedProducts, PlainMatrix, type ProductKernels } from '../tensor/products.ts';
import type { DTypePolicy } from '../weights/dtype-policy.ts';
import { loadWeights } from '../weights/weight-loader.ts';
import type { ModelWeights } from './blocks.ts';
import type { ModelConfig, RopeConfig } from './config.ts';
import { LoadPlan, planWeights } from './load-plan.ts';
import { readModelConfig } from './registry.ts';
import { ropeFactors } from './rope-scaling.ts';

export interface LoadOptions {
  readonly dtype: DTypePolicy;
  /** Matrices of packed formats are laid out for these. */
  readonly products: ProductKernels;
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
}

export class Model {
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  readonly dtype: DTypePolicy;
  /** Formats of the matrices, sorted: part of what decides the bits of the results. */
  readonly weightTypes: readonly TensorType[];
  readonly products: ProductKernels;
  readonly numBytes: number;
  readonly #parts: ModelParts;

  constructor(config: ModelConfig, { dtype, products }: LoadOptions, weights: ModelWeights, parts: ModelParts) {
    this.config = config;
    this.dtype = dtype;
    this.products = products;
    this.weights = weights;
    this.weightTypes = parts.weightTypes;
    this.numBytes = parts.memories.reduce((sum, memory) => sum + memory.numBytes, 0);
    this.#parts = parts;
  }

  /** Whether products with one row may differ from the same row among several. */
  get hasFloatProducts(): boolean {
    return this.weightTypes.some(isFloatType);
  }

  /** What keys and values are kept in. */
  get kvElement(): KvElement {
    return this.dtype === 'float32' ? 'f32' : 'f16';
  }

  /** No graph that uses the weights may run afterwards. */
  close(): void {
    const { space, emitted, memories } = this.#parts;
    space.free();
    emitted?.free();
    for (const memory of memories) memory.free();
  }
}

/** What a model's weights stand on. */
interface ModelParts {
  readonly space: TensorSpace;
  readonly emitted: EmittedProducts | null;
  readonly memories: readonly NativeMemory[];
  readonly weightTypes: readonly TensorType[];
}

/**
 * Reads the description and all weights; the file may be closed afterwards. Throws XllmError model_unsupported,
 * model_file_invalid (a tensor is missing or has another shape than the config says) or out_of_memory.
 */
export async function loadModel(ggml: Ggml, file: WeightsFile, options: LoadOptions): Promise<Model> {
  const config = withPrecision(await readModelConfig(file), options.dtype);
  const emitted = options.products === 'ggml' ? null : new EmittedProducts(options.products);
  try {
    return await loadWith(ggml, file, options, config, emitted);
  } catch (error) {
    emitted?.free();
    throw error;
  }
}

/** Under float32 nothing is looked up in tables of 16-bit floats. */
function withPrecision(config: ModelConfig, dtype: DTypePolicy): ModelConfig {
  const isCoarse = config.activation === 'gelu_tanh' && dtype === 'float32';
  return isCoarse ? { ...config, activation: 'gelu_tanh_f32' } : config;
}

async function loadWith(
  ggml: Ggml,
  file: WeightsFile,
  options: LoadOptions,
  config: ModelConfig,
  emitted: EmittedProducts | null,
): Promise<Model> {
  const plan = new LoadPlan(file, config, options.dtype, emitted);
  const build = planWeights(plan);
  const { weights, memory } = await loadWeights(ggml, file, plan.requests, options.onProgress);
  const ropes = [...new Set(config.layers.map((layer) => layer.rope))];
  const space = new TensorSpace(ggml, weights.length + ropes.length);
  const tensors = weights.map(({ type, shape, address }, i) =>
    plan.requests[i]?.packing ? null : space.leaf(type, shape, address),
  );
  const factorMemory = allocateNative(ropes.length * config.headDim * 4);
  const ropeOf = new Map(ropes.map((rope, i) => [rope, placeRope(space, factorMemory, config, rope, i)]));
  const built = build({
    tensor(index) {
      const tensor = tensors[index];
      invariant(tensor, `weight ${index} was not requested, or is packed`);
      return tensor;
    },
    matrix(index) {
      const [tensor, weight] = [tensors[index], weights[index]];
      invariant(weight, `weight ${index} was not requested`);
      if (tensor) return new PlainMatrix(tensor);
      invariant(emitted, 'a packed matrix without kernels');
      return emitted.matrix(weight.type, weight.shape as [number, number], weight.address, plan.fine.has(index));
    },
    rope(rope) {
      const placed = ropeOf.get(rope);
      invariant(placed, 'a rope was not placed');
      return placed;
    },
  });
  const matrixTypes = weights.filter(({ shape }) => shape.length > 1).map(({ type }) => type);
  const weightTypes = [...new Set(matrixTypes)].sort();
  return new Model(config, options, built, { space, emitted, memories: [memory, factorMemory], weightTypes });
}

function placeRope(
  space: TensorSpace,
  memory: NativeMemory,
  config: ModelConfig,
  rope: RopeConfig,
  slot: number,
): Rope {
  const { frequencyFactors, attnFactor } = ropeFactors(rope.scaling, rope.base, config.headDim);
  const count = config.headDim / 2;
  const offset = slot * config.headDim * 4;
  if (frequencyFactors) new Float32Array(memory.buffer, offset, count).set(frequencyFactors);
  return {
    pairs: config.ropePairs,
    base: rope.base,
    attnFactor,
    frequencyFactors: frequencyFactors ? space.leaf('F32', [count], memory.address + offset) : null,
  };
}

/** What was loaded, by number of request. */
interface Loaded {
  readonly tensor: (request: number) => Tensor;
  readonly matrix: (request: number) => Matrix;
  readonly rope: (rope: RopeConfig) => Rope;
}

/** Collects what to load and checks each tensor's shape; requests are known by number until they are loaded. */
class LoadPlan {
  readonly requests: WeightRequest[] = [];
  /**
   * Requests of matrices whose activations keep more bits: the attention's and the head, a quarter of a small model's
   * work. Measured on the default model: 36 of 45 first tokens as the reference with 8 bits throughout, 45 so.
   */
  readonly fine = new Set<number>();
  readonly config: ModelConfig;
  readonly file: WeightsFile;
  readonly #dtype: DTypePolicy;
  readonly #emitted: EmittedProducts | null;

  constructor(file: WeightsFile, config: ModelConfig, dtype: DTypePolicy, emitted: EmittedProducts | null) {
    this.file = file;
    this.config = config;
    this.#dtype = dtype;
    this.#emitted = emitted;
  }

  has(name: string): boolean {
    return this.file.tensors.has(name);
  }

  /** A vector of `length`, F32 in memory. */
  vector(name: string, length: number, add = 0): number {
    return this.#request([this.#find(name, [length])], add);
  }

  optionalVector(name: string, length: number, add = 0): number | null {
    return this.has(name) ? this.vector(name, length, add) : null;
  }

  /** [rows, columns], of which rows are read. */
  table(name: string, rows: number, columns: number): number {
    return this.#request([this.#find(`${name}.weight`, [rows, columns])]);
  }

  /** [rows, columns] each, multiplied with; stacked where their formats agree and either all or none have a bias. */
  stacked(
    names: readonly string[],
    rows: readonly number[],
    columns: number,
    isFine = false,
  ): { weight: number; bias: number | null }[] {
    const weights = names.map((name, i) => this.#find(`${name}.weight`, [rows[i] ?? 0, columns]));
    const biases = names.map((name, i) =>
      this.has(`${name}.bias`) ? this.#find(`${name}.bias`, [rows[i] ?? 0]) : null,
    );
    const types = new Set(weights.map((info) => targetType(info, this.#dtype)));
    const numBiases = biases.filter((bias) => bias !== null).length;
    if (types.size === 1 && (numBiases === 0 || numBiases === names.length)) {
      return [
        { weight: this.#matrix(weights, isFine), bias: numBiases ? this.#request(biases as TensorInfo[]) : null },
      ];
    }
    return weights.map((weight, i) => {
      const bias = biases[i];
      return { weight: this.#matrix([weight], isFine), bias: bias ? this.#request([bias]) : null };
    });
  }

  /** Whether the matrix is laid out in another way for products than its rows are read. */
  packs(name: string): boolean {
    const info = this.file.tensors.get(`${name}.weight`);
    return info !== undefined && this.#packing(info) !== null;
  }

  #packing(info: TensorInfo): WeightRequest['packing'] {
    return this.#emitted?.packing(targetType(info, this.#dtype)) ?? null;
  }

  #matrix(sources: readonly TensorInfo[], isFine: boolean): number {
    const [first] = sources;
    const request = this.#request(sources, 0, first ? this.#packing(first) : null);
    if (isFine) this.fine.add(request);
    return request;
  }

  #request(sources: readonly TensorInfo[], add = 0, packing: WeightRequest['packing'] = null): number {
    const [first] = sources;
    invariant(first, 'a request without sources');
    this.requests.push({ sources, target: targetType(first, this.#dtype), add, packing });
    return this.requests.length - 1;
  }

  #find(name: string, shape: readonly number[]): TensorInfo {
    const info = this.file.tensors.get(name);
    if (!info) throw new XllmError('model_file_invalid', `the model has no tensor ${name}`);
    if (info.shape.join() !== shape.join()) {
      throw new XllmError(
        'model_file_invalid',
        `tensor ${name} is [${info.shape.join()}], the config asks for [${shape.join()}]`,
      );
    }
    return info;
  }
}

/** Requests every weight; the result assembles them once they are loaded. */
function planWeights(plan: LoadPlan): (loaded: Loaded) => ModelWeights {
  const { config, file } = plan;
  const names = tensorNames(file);
  const D = config.hiddenSize;
  const { embedding, outputNorm, head } = names.model;
  const embeddingAt = plan.table(embedding, config.vocabSize, D);
  const outputNormAt = plan.vector(`${outputNorm}.weight`, D, config.normOffset);
  // Without a head of its own the model uses the embeddings, whose rows must stay readable.
  const headName = plan.has(`${head}.weight`) ? head : embedding;
  const headAt =
    headName === head || plan.packs(embedding)
      ? plan.stacked([headName], [config.vocabSize], D, true)
      : [{ weight: embeddingAt, bias: null }];
  const layersAt = config.layers.map((_, index) => planLayer(plan, (part) => names.layer(index, part)));

  return ({ tensor: tensorOf, matrix: matrixOf, rope: ropeOf }) => {
    const optional = (at: number | null) => (at === null ? null : tensorOf(at));
    const linears = (at: readonly { weight: number; bias: number | null }[]): Stacked =>
      at.map(({ weight, bias }) => ({ weight: matrixOf(weight), bias: optional(bias) }));
    const one = (at: readonly { weight: number; bias: number | null }[]): Linear => {
      const [only] = linears(at);
      invariant(only, 'no product');
      return only;
    };
    const layers = layersAt.map(
      (at, index): LayerWeights => ({
        attnNorm: tensorOf(at.attnNorm),
        qkv: linears(at.qkv),
        qNorm: optional(at.qNorm),
        kNorm: optional(at.kNorm),
        attnOutput: one(at.attnOutput),
        attnPostNorm: optional(at.attnPostNorm),
        ffnNorm: tensorOf(at.ffnNorm),
        gateUp: linears(at.gateUp),
        down: one(at.down),
        ffnPostNorm: optional(at.ffnPostNorm),
        rope: ropeOf(config.layers[index]!.rope),
      }),
    );
    return { embedding: tensorOf(embeddingAt), layers, outputNorm: tensorOf(outputNormAt), head: one(headAt) };
  };
}

function planLayer(plan: LoadPlan, name: (part: LayerPart) => string) {
  const { hiddenSize: D, ffnSize: F, numHeads, numKvHeads, headDim: K, normOffset } = plan.config;
  const [Q, KV] = [numHeads * K, numKvHeads * K];
  const norm = (part: LayerPart, length: number) => plan.vector(`${name(part)}.weight`, length, normOffset);
  const optionalNorm = (part: LayerPart, length: number) =>
    plan.optionalVector(`${name(part)}.weight`, length, normOffset);
  return {
    attnNorm: norm('attnNorm', D),
    qkv: plan.stacked([name('q'), name('k'), name('v')], [Q, KV, KV], D, true),
    qNorm: optionalNorm('qNorm', K),
    kNorm: optionalNorm('kNorm', K),
    attnOutput: plan.stacked([name('attnOutput')], [D], Q, true),
    attnPostNorm: optionalNorm('attnPostNorm', D),
    ffnNorm: norm('ffnNorm', D),
    gateUp: plan.stacked([name('gate'), name('up')], [F, F], D),
    down: plan.stacked([name('down')], [D], F),
    ffnPostNorm: optionalNorm('ffnPostNorm', D),
  };
}
