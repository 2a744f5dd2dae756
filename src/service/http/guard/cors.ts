// Owns CORS: off unless origins are configured; then exactly those.

export type CorsHeaders = Readonly<Record<string, string>>;

/** Headers for a request from `origin`: none where it is not allowed. */
export function corsHeaders(origins: readonly string[], origin: string | undefined): CorsHeaders {
  if (origins.length === 0 || origin === undefined) return {};
  const all = origins.includes('*');
  if (!all && !origins.includes(origin)) return {};
  return {
    'access-control-allow-origin': all ? '*' : origin,
    'access-control-expose-headers': 'x-request-id, retry-after',
    vary: 'origin',
  };
}

/** What a preflight is answered with besides `corsHeaders`. */
export function preflightHeaders(methods: readonly string[], requestedHeaders: string | undefined): CorsHeaders {
  const isPlain = requestedHeaders !== undefined && /^[\w\-, ]{1,1024}$/.test(requestedHeaders);
  return {
    'access-control-allow-methods': methods.join(', '),
    'access-control-allow-headers': isPlain ? requestedHeaders : 'authorization, content-type, x-request-id',
    'access-control-max-age': '600',
  };
}
