// Owns the defence against DNS rebinding: a page on a foreign name must not reach a keyless server on loopback.

const LOOPBACK = /^(localhost|(.+\.)?localhost|127(\.\d{1,3}){3}|::1)$/i;

/** Whether an address to listen on, or a host name, means this machine only. */
export function isLoopback(host: string): boolean {
  return LOOPBACK.test(host.replace(/^\[|\]$/g, ''));
}

/** The name in a Host header, without port and brackets; null where it is malformed or missing. */
export function hostName(header: string | undefined): string | null {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^:[\]@/\s]+))(?::\d{1,5})?$/i.exec(header ?? '');
  return match?.[1] ?? match?.[2] ?? null;
}

/** Whether a request with this Host header was meant for a server that listens on loopback. */
export function isOwnHost(header: string | undefined, allowedHosts: readonly string[]): boolean {
  const name = hostName(header);
  if (name === null) return false;
  return isLoopback(name) || allowedHosts.some((allowed) => allowed.toLowerCase() === name.toLowerCase());
}
