// Owns one cached graph of a step: its inputs, its intermediate results' places, its logits.
import { viewMemory } from '../ffi/koffi.ts';
import type { Ggml } from '../ffi/ggml.ts';
import { forward, head } from '../models/blocks.ts';
import type { GraphModel } from '../models/graph-model.ts';
import { Graph, type PlacedGraph } from '../tensor/graph.ts';
import { InputLayout, InputMemory, type InputSection } from '../tensor/inputs.ts';
import { numElements, type Tensor } from '../tensor/tensor.ts';
import type { AttentionShape } from './attention-shape.ts';

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
}

export class StepGraph {
  readonly placed: PlacedGraph;
  readonly inputs: InputMemory;
  readonly workBytes: number;
  readonly #hidden: Tensor;
  readonly #logits: Tensor | null;
  #views: StepResults | null = null;

  constructor(ggml: Ggml, model: GraphModel, shape: StepShape, workBytesOf: (graph: Graph) => number) {
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
    this.#hidden = forward(g, model, stepInputs, attention);
    this.#logits = shape.numOutputs > 0 ? head(g, model.weights, this.#hidden) : null;
    this.placed = g.finish([this.#hidden, this.#logits].filter((output) => output !== null));
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
