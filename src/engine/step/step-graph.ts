// Owns one cached graph of a step: its inputs, its intermediate results' places, its logits.
import { viewMemory } from '../ffi/koffi.ts';
import type { Ggml } from '../ffi/ggml.ts';
import { forward, head } from '../models/blocks.ts';
import type { Model } from '../models/model.ts';
import { Graph, type PlacedGraph } from '../tensor/graph.ts';
import { InputLayout, InputMemory, type InputSection } from '../tensor/inputs.ts';
import { numElements, type Tensor } from '../tensor/tensor.ts';
import type { AttentionShape } from './attention-path.ts';
import type { SamplerPath } from './sampler-path.ts';

/** Padded sizes of a step; equal keys mean equal graphs. */
export interface StepShape {
  readonly numTokens: number;
  /** Padded number of outputs; 0: none, the step only fills the cache. */
  readonly numOutputs: number;
  /** Whether the outputs are all tokens in order: nothing to gather. */
  readonly outputsAreTokens: boolean;
  readonly attention: AttentionShape;
}

export function shapeKey({ numTokens, numOutputs, outputsAreTokens, attention }: StepShape): string {
  return `${numTokens}>${outputsAreTokens ? 'all' : numOutputs} ${attention.key}`;
}

export interface StepSections {
  /** I32 [T] */
  readonly tokenIds: InputSection;
  /** I32 [T] */
  readonly positions: InputSection;
  /** I32 [max(O,1)] */
  readonly outputTokens: InputSection;
  readonly numBytes: number;
}

/** Claims a step's input sections: the same for the graph and for each step that runs on it. */
export function layoutStep({ numTokens, numOutputs, attention }: StepShape): StepSections {
  const layout = new InputLayout();
  const tokenIds = layout.section(numTokens, 4);
  const positions = layout.section(numTokens, 4);
  const outputTokens = layout.section(Math.max(1, numOutputs), 4);
  attention.layout(layout);
  return { tokenIds, positions, outputTokens, numBytes: layout.numBytes };
}

/** Leaves, views and nodes of a layer with all options on, and of a call of ggml's attention: generously. */
const tensorsPerLayer = 96;
const tensorsPerCall = 24;

export interface StepResults {
  /** [O,D] after the final norm */
  readonly hidden: Float32Array;
  /** [O,V] */
  readonly logits: Float32Array;
  /** What the sampler's node left. */
  readonly sampled: Int32Array;
}

export class StepGraph {
  readonly placed: PlacedGraph;
  readonly inputs: InputMemory;
  readonly workBytes: number;
  readonly #hidden: Tensor;
  readonly #logits: Tensor | null;
  readonly #sampled: Tensor | null;
  #views: StepResults | null = null;

  constructor(ggml: Ggml, model: Model, sampler: SamplerPath, shape: StepShape, workBytesOf: (graph: Graph) => number) {
    const sections = layoutStep(shape);
    this.inputs = new InputMemory(sections.numBytes);
    const numCalls = shape.attention.key.split(' ').length;
    const numLayers = model.config.layers.length;
    const g = new Graph(ggml, 128 + numLayers * (tensorsPerLayer + tensorsPerCall * numCalls));
    const leaf = (section: InputSection, count: number) => g.leaf('I32', [count], this.inputs.address + section.offset);
    const stepInputs = {
      tokenIds: leaf(sections.tokenIds, shape.numTokens),
      positions: leaf(sections.positions, shape.numTokens),
      outputTokens: shape.outputsAreTokens ? null : leaf(sections.outputTokens, Math.max(1, shape.numOutputs)),
    };
    const attention = shape.attention.build(g, this.inputs);
    this.#hidden = forward(g, model.config, model.weights, stepInputs, attention);
    this.#logits = shape.numOutputs > 0 ? head(g, model.weights, this.#hidden) : null;
    this.#sampled = this.#logits && sampler.build(g, this.#logits);
    this.placed = g.finish([this.#hidden, this.#logits, this.#sampled].filter((output) => output !== null));
    this.workBytes = workBytesOf(g);
  }

  /** Puts intermediate results at `base`. */
  place(base: number): void {
    if (this.placed.place(base)) this.#views = null;
  }

  /** Of the run that ended last; valid until the next one starts. */
  results(): StepResults {
    this.#views ??= {
      hidden: new Float32Array(this.#memoryOf(this.#hidden)),
      logits: new Float32Array(this.#memoryOf(this.#logits)),
      sampled: new Int32Array(this.#memoryOf(this.#sampled)),
    };
    return this.#views;
  }

  #memoryOf(tensor: Tensor | null): ArrayBuffer {
    return tensor ? viewMemory(this.placed.dataOf(tensor), 4 * numElements(tensor.shape)) : new ArrayBuffer(0);
  }

  free(): void {
    this.placed.free();
    this.inputs.free();
  }
}
