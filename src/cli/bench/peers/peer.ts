// Owns the seam between a comparison and the systems compared: adding a product is one file with a `PeerProduct`.
import type { DType } from '../../../files/dtype.ts';
import type { Recipe } from './recipe.ts';

/** One stream at a time, or many. Systems choose their slots and batch settings by it. */
export type ServerShape = 'single' | 'batch';

export interface Launch {
  readonly shape: ServerShape;
  readonly port: number;
  readonly threads: number;
}

export interface ServerCommand {
  readonly file: string;
  readonly args: readonly string[];
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
}

export interface SetUpContext {
  /** Where a product may install itself. */
  readonly cacheFolder: string;
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

export interface PrepareContext extends SetUpContext {
  /** The GGUF that all systems serve. */
  readonly modelPath: string;
}

/** A system that is installed and has what it needs to serve one model. */
export interface PreparedPeer {
  readonly name: string;
  readonly version: string;
  /** What a reader of the figures must know: another form of the weights, say. */
  readonly notes: readonly string[];
  /** Serves another form of the weights, so that the reference does not bind it. */
  readonly hasOtherWeights: boolean;
  /** Answers 200 once the model is loaded. */
  readonly readyPath: string;
  /** False where requests on reused connections fail. */
  readonly isKeepAlive: boolean;
  readonly command: (launch: Launch) => ServerCommand;
  /** Greedy continuation of at most `maxTokens` ids, which may end before a stop token. */
  readonly greedyTokens: (
    url: string,
    promptIds: readonly number[],
    maxTokens: number,
    signal: AbortSignal,
  ) => Promise<number[]>;
  /** null where the system does not tell. */
  readonly stepTotals: (url: string, signal: AbortSignal) => Promise<StepTotals | null>;
}

/** Totals since the server's start. */
export interface StepTotals {
  readonly steps: number;
  /** CPU time of the event loop that plans and sends. */
  readonly eventLoopCpuUs: number;
}

/** One way to serve a model: a column of the comparison. */
export interface Peer {
  readonly name: string;
  /** Makes what this model needs, once. Throws XllmError `usage` for a model that the system cannot serve. */
  readonly prepare: (context: PrepareContext) => Promise<PreparedPeer>;
}

/** A rival that can be installed. */
export interface PeerProduct {
  readonly recipe: Recipe;
  /** What setting it up takes, for the person who decides. */
  readonly cost: string;
  /** `matrixDType`: of most of the model's weights. */
  readonly systems: (matrixDType: DType) => readonly Peer[];
}
