// Owns the service's view of an engine: submit token ids, get token ids. Implemented over the contract.
import type { Refusal } from '../common/errors.ts';
import type { Span } from '../common/trace.ts';
import type { Sampling, StatusReply } from '../contract/generated/xllm_pb.js';
import type { ClusterView } from './registry/cluster-view.ts';

export interface EngineModel {
  /** Served model name. */
  readonly model: string;
  readonly modelPath: string;
  readonly vocabSize: number;
  readonly maxModelLen: number;
  readonly stopTokenIds: readonly number[];
  readonly numericsId: string;
  readonly instance: string;
  /** For people: label → text, such as memory plan, threads, kernels, KV layout. */
  readonly summary: Readonly<Record<string, string>>;
}

export interface EngineRequest {
  readonly requestId: string;
  readonly model: string;
  readonly promptIds: Int32Array;
  readonly sampling: Sampling;
  readonly maxTokens: number;
  /** One sequence per seed. */
  readonly seeds: readonly bigint[];
  readonly priority: number;
  readonly offline: boolean;
  readonly cacheSalt: string;
  /** 0: none. */
  readonly deadlineMs: number;
  /** Requests of one session prefer one instance; '': no session. */
  readonly sessionKey: string;
  /** Objectives; 0: none stated. */
  readonly ttftSloMs: number;
  readonly tpotSloMs: number;
  /** What its stages are parts of; absent: no traces. */
  readonly span?: Span;
}

/** What most requests are: online, with the shared cache, without a deadline, a session or objectives. */
export const ordinaryRequest = {
  priority: 0,
  offline: false,
  cacheSalt: '',
  deadlineMs: 0,
  sessionKey: '',
  ttftSloMs: 0,
  tpotSloMs: 0,
} as const satisfies Partial<EngineRequest>;

export interface TokenLogprob {
  readonly tokenId: number;
  readonly logprob: number;
  readonly rank: number;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
}

/** `handed-off`: it goes on at another instance; never seen by who submitted the request. */
export type EngineFinish = 'stop' | 'length' | 'abort' | 'error' | 'handed-off';

/** New tokens of one choice. */
export interface EngineDelta {
  readonly choice: number;
  readonly tokenIds: Int32Array;
  /** Tokens generated before these, over all instances and attempts. */
  readonly numBefore: number;
  readonly logprobs: readonly TokenLogprob[];
  readonly promptLogprobs: readonly TokenLogprob[];
  readonly finish: EngineFinish | null;
  /** The stop token id that ended the sequence (it is the last of tokenIds), where one did. */
  readonly stopTokenId: number | null;
  /** With the first delta of a choice. */
  readonly numCachedTokens: number | null;
  readonly queueMs: number | null;
  readonly prefillMs: number | null;
  readonly numPreemptions: number;
  /** It was to move to another instance and has not; never seen by who submitted the request. */
  readonly stays?: true;
  /** With finish 'error'. */
  readonly error: Refusal | null;
}

/** A submitted request. Deltas arrive by callback, in order, at most one call per engine step and choice. */
export interface EngineHandle {
  /** Ends one choice (a stop string was met after `keepTokens` tokens) or, with none named, all of them. */
  abort(choice?: number, keepTokens?: number): void;
  /** Back-pressure: the engine computes nothing for this request until `resume`. */
  pause(): void;
  resume(): void;
}

export interface EngineClient {
  /** Every model that a request sent now would be served by, in order of names. */
  readonly models: readonly EngineModel[];
  /**
   * Resolves with a handle once the engine has admitted the request, or with its refusal. After admission every
   * choice ends with exactly one delta whose `finish` is set, also when the engine dies (finish 'error',
   * engine_lost).
   */
  submit(request: EngineRequest, onDelta: (delta: EngineDelta) => void): Promise<EngineHandle | Refusal>;
  /** The instances behind it, as they are known now. */
  view(): ClusterView;
  /** Status of the healthiest engine, as of now; null while none answers. */
  status(): Promise<StatusReply | null>;
  /** Of every engine that is connected, in order of names. */
  statuses(): Promise<readonly InstanceStatus[]>;
}

export interface InstanceStatus {
  readonly instance: string;
  readonly model: string;
  /** null: it does not answer. */
  readonly status: StatusReply | null;
}
