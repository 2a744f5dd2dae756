// Owns what the HTTP side is told from outside, and its defaults.
import { defaultStreamLimits, limits, type StreamLimits } from './limits.ts';

/** The model's own generation config: what a request gets where it says nothing. */
export interface GenerationDefaults {
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
}

export interface HttpConfig {
  readonly host: string;
  /** 0 takes a free port. */
  readonly port: number;
  /** Names the one model answers to; the first appears in replies. Empty: models go by their own names. */
  readonly servedModelNames: readonly string[];
  /** Models that will be served: while no engine has one, it is unavailable, and not unknown. */
  readonly expectedModels: readonly string[];
  /** Empty: no key is asked for. */
  readonly apiKeys: readonly string[];
  /** Origins that browsers may call from; `*` for all. Empty: CORS is off. */
  readonly corsOrigins: readonly string[];
  /** Host names accepted besides loopback ones while the server listens on loopback without a key. */
  readonly allowedHosts: readonly string[];
  /** Requests that run longer end with `deadline_exceeded`; 0: never. */
  readonly requestTimeoutMs: number;
  /** `/ready` turns false when the engine has had work but finished no step for this long. */
  readonly maxStallMs: number;
  readonly maxBodyBytes: number;
  readonly stream: StreamLimits;
}

export const defaultHttpConfig: HttpConfig = {
  host: '127.0.0.1',
  port: 8000,
  servedModelNames: [],
  expectedModels: [],
  apiKeys: [],
  corsOrigins: [],
  allowedHosts: [],
  requestTimeoutMs: 0,
  maxStallMs: 60_000,
  maxBodyBytes: limits.bodyBytes,
  stream: defaultStreamLimits,
};
