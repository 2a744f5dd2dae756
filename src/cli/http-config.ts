// Owns the translation of command line options into the HTTP side's configuration.
import type { HttpConfig } from '../service/http/config.ts';
import type { ServiceOptions } from './config/options.ts';

export type HttpOptions = Pick<ServiceOptions, 'host' | 'port' | 'corsOrigin' | 'requestTimeoutS'>;

export function httpConfigOf(
  { host, port, corsOrigin, requestTimeoutS }: HttpOptions,
  servedModelNames: readonly string[],
  apiKeys: readonly string[],
): Partial<HttpConfig> {
  return {
    host,
    port,
    servedModelNames,
    apiKeys,
    corsOrigins: corsOrigin,
    requestTimeoutMs: requestTimeoutS * 1_000,
  };
}
