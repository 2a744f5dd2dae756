// Owns the list of what to load for a model, and its assembly into layers once that is in memory.
import { invariant, XllmError } from '../../common/errors.ts';
import type { TensorInfo, WeightsFile } from '../../files/weights-file.ts';
import type { Rope } from '../tensor/ops.ts';
import type { EmittedProducts, Matrix } from '../tensor/products.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { type DTypePolicy, targetType } from '../weights/dtype-policy.ts';
import type { WeightRequest } from '../weights/weight-plan.ts';
import type { LayerWeights, Linear, ModelWeights, Stacked } from './blocks.ts';
import type { ModelConfig, RopeConfig } from './config.ts';
import { type LayerPart, tensorNames } from './names.ts';

/** What was loaded, by number of request. */
export interface Loaded {
  readonly tensor: (request: number) => Tensor;
  readonly matrix: (request: number) => Matrix;
  readonly rope: (rope: RopeConfig) => Rope;
}

/** Collects what to load and checks each tensor's shape; requests are known by number until they are loaded. */
export class LoadPlan {
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
export function planWeights(plan: LoadPlan): (loaded: Loaded) => ModelWeights {
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

  return (loaded) => {
    const optional = (at: number | null) => (at === null ? null : loaded.tensor(at));
    const linears = (at: readonly { weight: number; bias: number | null }[]): Stacked =>
      at.map(({ weight, bias }) => ({ weight: loaded.matrix(weight), bias: optional(bias) }));
    const one = (at: readonly { weight: number; bias: number | null }[]): Linear => {
      const [only] = linears(at);
      invariant(only, 'no product');
      return only;
    };
    const layers = layersAt.map(
      (at, index): LayerWeights => ({
        attnNorm: loaded.tensor(at.attnNorm),
        qkv: linears(at.qkv),
        qNorm: optional(at.qNorm),
        kNorm: optional(at.kNorm),
        attnOutput: one(at.attnOutput),
        attnPostNorm: optional(at.attnPostNorm),
        ffnNorm: loaded.tensor(at.ffnNorm),
        gateUp: linears(at.gateUp),
        down: one(at.down),
        ffnPostNorm: optional(at.ffnPostNorm),
        rope: loaded.rope(config.layers[index]!.rope),
      }),
    );
    return {
      embedding: loaded.tensor(embeddingAt),
      layers,
      outputNorm: loaded.tensor(outputNormAt),
      head: one(headAt),
    };
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
