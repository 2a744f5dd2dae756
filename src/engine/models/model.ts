// Owns a loaded model: its description and its weights in memory, ready to be used in graphs.
import { invariant, XllmError } from '../../common/errors.ts';
import type { TensorInfo, WeightsFile } from '../../files/weights-file.ts';
import type { Ggml } from '../ffi/ggml.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { KvElement } from '../kv/cache-group.ts';
import { isFloatType, type TensorType } from '../tensor/dtype.ts';
import { TensorSpace } from '../tensor/graph.ts';
import type { Rope } from '../tensor/ops.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { type DTypePolicy, targetType } from '../weights/dtype-policy.ts';
import { loadWeights, type WeightRequest } from '../weights/weight-loader.ts';
import type { LayerWeights, Linear, ModelWeights, Stacked } from './blocks.ts';
import type { ModelConfig, RopeConfig } from './config.ts';
import { type LayerPart, tensorNames } from './names.ts';
import { readModelConfig } from './registry.ts';
import { ropeFactors } from './rope-scaling.ts';

export interface LoadOptions {
  readonly dtype: DTypePolicy;
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
}

export class Model {
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  readonly dtype: DTypePolicy;
  /** Formats of the matrices, sorted: part of what decides the bits of the results. */
  readonly weightTypes: readonly TensorType[];
  readonly numBytes: number;
  readonly #space: TensorSpace;
  readonly #memories: readonly NativeMemory[];

  constructor(
    config: ModelConfig,
    dtype: DTypePolicy,
    weights: ModelWeights,
    space: TensorSpace,
    memories: readonly NativeMemory[],
    weightTypes: readonly TensorType[],
  ) {
    this.config = config;
    this.dtype = dtype;
    this.weights = weights;
    this.weightTypes = weightTypes;
    this.numBytes = memories.reduce((sum, memory) => sum + memory.numBytes, 0);
    this.#space = space;
    this.#memories = memories;
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
    this.#space.free();
    for (const memory of this.#memories) memory.free();
  }
}

/**
 * Reads the description and all weights; the file may be closed afterwards. Throws XllmError model_unsupported,
 * model_file_invalid (a tensor is missing or has another shape than the config says) or out_of_memory.
 */
export async function loadModel(ggml: Ggml, file: WeightsFile, options: LoadOptions): Promise<Model> {
  const config = await readModelConfig(file);
  const plan = new LoadPlan(file, config, options.dtype);
  const build = planWeights(plan);
  const { weights, memory } = await loadWeights(ggml, file, plan.requests, options.onProgress);
  const ropes = [...new Set(config.layers.map((layer) => layer.rope))];
  const space = new TensorSpace(ggml, weights.length + ropes.length);
  const tensors = weights.map(({ type, shape, address }) => space.leaf(type, shape, address));
  const factorMemory = allocateNative(ropes.length * config.headDim * 4);
  const ropeOf = new Map(ropes.map((rope, i) => [rope, placeRope(space, factorMemory, config, rope, i)]));
  const built = build(
    (index) => {
      const tensor = tensors[index];
      invariant(tensor, `weight ${index} was not requested`);
      return tensor;
    },
    (rope) => {
      const placed = ropeOf.get(rope);
      invariant(placed, 'a rope was not placed');
      return placed;
    },
  );
  const matrixTypes = weights.filter(({ shape }) => shape.length > 1).map(({ type }) => type);
  return new Model(config, options.dtype, built, space, [memory, factorMemory], [...new Set(matrixTypes)].sort());
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

type TensorOf = (request: number) => Tensor;
type RopeOf = (rope: RopeConfig) => Rope;

/** Collects what to load and checks each tensor's shape; requests are known by number until they are loaded. */
class LoadPlan {
  readonly requests: WeightRequest[] = [];
  readonly config: ModelConfig;
  readonly file: WeightsFile;
  readonly #dtype: DTypePolicy;

  constructor(file: WeightsFile, config: ModelConfig, dtype: DTypePolicy) {
    this.file = file;
    this.config = config;
    this.#dtype = dtype;
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

  /** [rows, columns] each, stacked where their formats agree and either all or none have a bias. */
  stacked(
    names: readonly string[],
    rows: readonly number[],
    columns: number,
  ): { weight: number; bias: number | null }[] {
    const weights = names.map((name, i) => this.#find(`${name}.weight`, [rows[i] ?? 0, columns]));
    const biases = names.map((name, i) =>
      this.has(`${name}.bias`) ? this.#find(`${name}.bias`, [rows[i] ?? 0]) : null,
    );
    const types = new Set(weights.map((info) => targetType(info, this.#dtype)));
    const numBiases = biases.filter((bias) => bias !== null).length;
    if (types.size === 1 && (numBiases === 0 || numBiases === names.length)) {
      return [{ weight: this.#request(weights), bias: numBiases ? this.#request(biases as TensorInfo[]) : null }];
    }
    return weights.map((weight, i) => {
      const bias = biases[i];
      return { weight: this.#request([weight]), bias: bias ? this.#request([bias]) : null };
    });
  }

  #request(sources: readonly TensorInfo[], add = 0): number {
    const [first] = sources;
    invariant(first, 'a request without sources');
    this.requests.push({ sources, target: targetType(first, this.#dtype), add });
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
function planWeights(plan: LoadPlan): (tensorOf: TensorOf, ropeOf: RopeOf) => ModelWeights {
  const { config, file } = plan;
  const names = tensorNames(file);
  const D = config.hiddenSize;
  const { embedding, outputNorm, head } = names.model;
  const embeddingAt = plan.stacked([embedding], [config.vocabSize], D);
  const outputNormAt = plan.vector(`${outputNorm}.weight`, D, config.normOffset);
  // Without a head of its own the model uses the embeddings.
  const headAt = plan.has(`${head}.weight`) ? plan.stacked([head], [config.vocabSize], D) : embeddingAt;
  const layersAt = config.layers.map((_, index) => planLayer(plan, (part) => names.layer(index, part)));

  return (tensorOf, ropeOf) => {
    const optional = (at: number | null) => (at === null ? null : tensorOf(at));
    const linears = (at: readonly { weight: number; bias: number | null }[]): Stacked =>
      at.map(({ weight, bias }) => ({ weight: tensorOf(weight), bias: optional(bias) }));
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
    return { embedding: one(embeddingAt).weight, layers, outputNorm: tensorOf(outputNormAt), head: one(headAt) };
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
    qkv: plan.stacked([name('q'), name('k'), name('v')], [Q, KV, KV], D),
    qNorm: optionalNorm('qNorm', K),
    kNorm: optionalNorm('kNorm', K),
    attnOutput: plan.stacked([name('attnOutput')], [D], Q),
    attnPostNorm: optionalNorm('attnPostNorm', D),
    ffnNorm: norm('ffnNorm', D),
    gateUp: plan.stacked([name('gate'), name('up')], [F, F], D),
    down: plan.stacked([name('down')], [D], F),
    ffnPostNorm: optionalNorm('ffnPostNorm', D),
  };
}
