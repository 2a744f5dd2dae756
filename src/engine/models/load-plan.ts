// Owns the list of what to load for a model, and its assembly into layers once that is in memory.
import { invariant, XllmError } from '../../common/errors.ts';
import type { TensorInfo, WeightsFile } from '../../files/weights-file.ts';
import type { PackingOf } from '../tensor/packing.ts';
import { type DTypePolicy, targetType } from '../weights/dtype-policy.ts';
import type { WeightRequest } from '../weights/weight-plan.ts';
import type { ModelConfig } from './config.ts';
import { type LayerPart, tensorNames } from './names.ts';
import type { LayerWeights, Linear, ModelWeights } from './weights.ts';

/** Collects what to load and checks each tensor's shape; requests are known by number until they are loaded. */
export class LoadPlan {
  readonly requests: WeightRequest[] = [];
  readonly config: ModelConfig;
  readonly file: WeightsFile;
  readonly #dtype: DTypePolicy;
  readonly #packing: PackingOf;

  constructor(file: WeightsFile, config: ModelConfig, dtype: DTypePolicy, packing: PackingOf) {
    this.file = file;
    this.config = config;
    this.#dtype = dtype;
    this.#packing = packing;
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

  /**
   * Two matrices [rows, columns] whose product becomes act(gate) * up: as one where kernels take that, else as `stacked`.
   */
  gated(names: readonly [gate: string, up: string], rows: number, columns: number): Linear<number>[] {
    const sources = names.map((name) => this.#find(`${name}.weight`, [rows, columns]));
    const types = new Set(sources.map((info) => targetType(info, this.#dtype)));
    const [type] = types;
    const hasBias = names.some((name) => this.has(`${name}.bias`));
    const packing = type && types.size === 1 && !hasBias ? this.#packing(type, true) : null;
    if (!packing) return this.stacked(names, [rows, rows], columns);
    return [{ weight: this.#request(sources, 0, packing), bias: null }];
  }

  /** [rows, columns] of which rows are read. */
  table(name: string, rows: number, columns: number): number {
    return this.#matrix([this.#find(`${name}.weight`, [rows, columns])]);
  }

  /** One of `stacked`. */
  linear(name: string, rows: number, columns: number): Linear<number> {
    const [only] = this.stacked([name], [rows], columns);
    invariant(only, 'no product');
    return only;
  }

  /** [rows, columns] each, multiplied with; stacked where their formats agree and either all or none have a bias. */
  stacked(names: readonly string[], rows: readonly number[], columns: number): Linear<number>[] {
    const weights = names.map((name, i) => this.#find(`${name}.weight`, [rows[i] ?? 0, columns]));
    const biases = names.map((name, i) =>
      this.has(`${name}.bias`) ? this.#find(`${name}.bias`, [rows[i] ?? 0]) : null,
    );
    const types = new Set(weights.map((info) => targetType(info, this.#dtype)));
    const numBiases = biases.filter((bias) => bias !== null).length;
    if (types.size === 1 && (numBiases === 0 || numBiases === names.length)) {
      return [{ weight: this.#matrix(weights), bias: numBiases ? this.#request(biases as TensorInfo[]) : null }];
    }
    return weights.map((weight, i) => {
      const bias = biases[i];
      return { weight: this.#matrix([weight]), bias: bias ? this.#request([bias]) : null };
    });
  }

  #matrix(sources: readonly TensorInfo[]): number {
    const [first] = sources;
    const packing = first ? this.#packing(targetType(first, this.#dtype), false) : null;
    return this.#request(sources, 0, packing);
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

/** Requests every weight; the result names the requests. */
export function planWeights(plan: LoadPlan): ModelWeights<number> {
  const { config, file } = plan;
  const names = tensorNames(file);
  const [V, D] = [config.vocabSize, config.hiddenSize];
  const { embedding, outputNorm, head } = names.model;
  // Without a head of its own the model uses the embeddings.
  const isTied = !plan.has(`${head}.weight`);
  const headAt = plan.linear(isTied ? embedding : head, V, D);
  return {
    embedding: isTied ? headAt.weight : plan.table(embedding, V, D),
    layers: config.layers.map((_, index) => planLayer(plan, (part) => names.layer(index, part))),
    outputNorm: plan.vector(`${outputNorm}.weight`, D, config.normOffset),
    head: headAt,
  };
}

function planLayer(plan: LoadPlan, name: (part: LayerPart) => string): LayerWeights<number> {
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
    attnOutput: plan.linear(name('attnOutput'), D, Q),
    attnPostNorm: optionalNorm('attnPostNorm', D),
    ffnNorm: norm('ffnNorm', D),
    gateUp: plan.gated([name('gate'), name('up')], F, D),
    down: plan.linear(name('down'), D, F),
    ffnPostNorm: optionalNorm('ffnPostNorm', D),
  };
}
