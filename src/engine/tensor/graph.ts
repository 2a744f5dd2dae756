// Owns building one graph: a ggml context, leaves over memory that lives elsewhere, nodes in program order.
import { invariant } from '../../common/errors.ts';
import type { Ggml, GgmlContext, GgmlGraph, GgmlTensor } from '../ffi/ggml.ts';
import { maxSources, TensorMemory } from '../ffi/ggml-layout.ts';
import type { Address } from '../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import { bytesOf, type TensorType, tensorTypes } from './dtype.ts';
import { planMemory } from './memory-plan.ts';
import { denseStrides, ggmlDims, ggmlStrides, numElements, type Tensor } from './tensor.ts';

/** The library that graphs are built with; callers above only pass it on. */
export type { Ggml };

/** Leaves only: weights, caches, inputs. Their data stays wherever the caller put it. */
export class TensorSpace {
  readonly ggml: Ggml;
  readonly ctx: GgmlContext;
  protected readonly memory: TensorMemory;
  readonly #constants: NativeMemory[] = [];
  readonly #maxTensors: number;
  #numTensors = 0;

  constructor(ggml: Ggml, maxTensors: number, extraBytes = 0) {
    this.ggml = ggml;
    this.#maxTensors = maxTensors;
    const memBytes = ggml.tensorOverhead() * (maxTensors + 4) + extraBytes + 4096;
    this.ctx = ggml.init({ mem_size: memBytes, mem_buffer: null, no_alloc: true });
    invariant(this.ctx !== 0, 'ggml_init failed');
    this.memory = new TensorMemory(ggml.memBuffer(this.ctx), ggml.memSize(this.ctx));
  }

  /** A tensor over existing memory. `strides` (bytes) default to dense. */
  leaf(type: TensorType, shape: readonly number[], data: Address, strides?: readonly number[]): Tensor {
    const address = this.ggml.newTensor(this.ctx, tensorTypes[type].ggmlType, ...ggmlDims(shape));
    this.count();
    this.memory.setData(address, data);
    if (strides) ggmlStrides(shape, strides).forEach((stride, i) => this.memory.setStride(address, i + 1, stride));
    return { address, type, shape, strides: strides ?? denseStrides(type, shape) };
  }

  /** ggml aborts when its memory is full: there is room for a few tensors beyond `maxTensors`. */
  protected count(): void {
    this.#numTensors++;
    invariant(this.#numTensors <= this.#maxTensors, `more than ${this.#maxTensors} tensors`);
  }

  /** A small tensor [n] in memory of its own. */
  constant(values: Float32Array): Tensor {
    const memory = allocateNative(values.byteLength);
    this.#constants.push(memory);
    new Float32Array(memory.buffer).set(values);
    return this.leaf('F32', [values.length], memory.address);
  }

  free(): void {
    this.ggml.free(this.ctx);
    for (const memory of this.#constants) memory.free();
  }
}

/** Nodes run in the order in which they were added. */
export class Graph extends TensorSpace {
  readonly handle: GgmlGraph;
  /** Nodes with a result of their own, in order, and its size. */
  readonly #nodes: GgmlTensor[] = [];
  readonly #numBytes: number[] = [];
  readonly #views: GgmlTensor[] = [];

  /** `maxTensors`: leaves, views and nodes. */
  constructor(ggml: Ggml, maxTensors: number) {
    super(ggml, maxTensors, ggml.graphOverhead(maxTensors, false));
    this.handle = ggml.newGraph(this.ctx, maxTensors, false);
  }

  /** Adds a node with a dense result of its own. */
  add(address: GgmlTensor, type: TensorType, shape: readonly number[]): Tensor {
    this.count();
    this.ggml.expand(this.handle, address);
    this.#nodes.push(address);
    this.#numBytes.push(bytesOf(type, numElements(shape)));
    return { address, type, shape, strides: denseStrides(type, shape) };
  }

  /** Adds a node that writes into one of its sources. */
  addInPlace(address: GgmlTensor, target: Tensor): Tensor {
    this.count();
    this.ggml.expand(this.handle, address);
    this.#nodes.push(address);
    this.#numBytes.push(0);
    return { ...target, address };
  }

  /** Another shape over the same memory; `offset` and `strides` in bytes. */
  view(source: Tensor, shape: readonly number[], strides: readonly number[], offset = 0): Tensor {
    const [nb1, nb2, nb3] = ggmlStrides(shape, strides);
    const address = this.ggml.view4d(this.ctx, source.address, ...ggmlDims(shape), nb1, nb2, nb3, offset);
    this.count();
    this.#views.push(address);
    return { address, type: source.type, shape, strides };
  }

  /** A dense tensor under another shape. */
  reshape(source: Tensor, shape: readonly number[]): Tensor {
    invariant(
      numElements(shape) === numElements(source.shape),
      `cannot reshape [${source.shape.join()}] to [${shape.join()}]`,
    );
    return this.view(source, shape, denseStrides(source.type, shape));
  }

  /** Lays the results out. Those of `outputs` survive the whole graph. Nothing can be added afterwards. */
  finish(outputs: readonly Tensor[]): PlacedGraph {
    const indexOf = new Map(this.#nodes.map((address, i) => [address, i]));
    const root = (tensor: GgmlTensor) => (this.memory.holds(tensor) && this.memory.viewSource(tensor)) || tensor;
    const nodes = this.#nodes.map((address, i) => {
      const sources: number[] = [];
      for (let s = 0; s < maxSources; s++) {
        const source = this.memory.source(address, s);
        const index = source === 0 ? undefined : indexOf.get(root(source));
        if (index !== undefined) sources.push(index);
      }
      return { numBytes: this.#numBytes[i]!, sources };
    });
    const kept = outputs.map((output) => indexOf.get(root(output.address)));
    const plan = planMemory(
      nodes,
      kept.filter((index) => index !== undefined),
    );
    const place = (base: Address): void => {
      this.#nodes.forEach((address, i) => {
        if (this.#numBytes[i]! > 0) this.memory.setData(address, base + plan.offsets[i]!);
      });
      for (const view of this.#views) {
        const data = this.memory.data(this.memory.viewSource(view));
        this.memory.setData(view, data + this.memory.viewOffset(view));
      }
    };
    return new PlacedGraph(this, plan.numBytes, place, (tensor) => this.memory.data(tensor.address));
  }
}

/** A finished graph that can be moved to any buffer of `numBytes`. */
export class PlacedGraph {
  readonly graph: Graph;
  readonly numBytes: number;
  readonly #place: (base: Address) => void;
  readonly #dataOf: (tensor: Tensor) => Address;
  #base: Address = 0;

  constructor(graph: Graph, numBytes: number, place: (base: Address) => void, dataOf: (tensor: Tensor) => Address) {
    this.graph = graph;
    this.numBytes = numBytes;
    this.#place = place;
    this.#dataOf = dataOf;
  }

  /** Puts the results at `base` (64-byte aligned). Returns whether they moved. */
  place(base: Address): boolean {
    if (base === this.#base) return false;
    this.#place(base);
    this.#base = base;
    return true;
  }

  /** Where a result is; valid after `place`. */
  dataOf(tensor: Tensor): Address {
    return this.#dataOf(tensor);
  }

  free(): void {
    this.graph.free();
  }
}
