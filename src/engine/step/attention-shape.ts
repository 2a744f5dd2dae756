// Owns what a step's graph needs to know of how the step attends.
import type { Attention } from '../models/blocks.ts';
import type { Graph } from '../tensor/graph.ts';
import type { InputLayout, InputMemory, StagedInputs } from '../tensor/inputs.ts';

/** How one step attends: what of it is fixed in the graph, and what is filled in for each step. */
export interface AttentionShape {
  /** Steps of equal key share a graph. */
  readonly key: string;
  /** Claims the sections of the step's inputs; called once per graph and once per step, alike. */
  layout(layout: InputLayout): void;
  /** After `layout`. May run while the previous step does. */
  fill(staged: StagedInputs): void;
  /** After `layout`. */
  build(g: Graph, inputs: InputMemory): Attention;
}
