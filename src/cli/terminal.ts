// Owns what commands that run and end need of the terminal: streams, environment, and Ctrl-C as a signal.
import type { BenchIo } from './bench/io.ts';

/** The first Ctrl-C or SIGTERM aborts the signal, so that the command ends in good order; the second ends the process. */
export function terminalIo(): BenchIo {
  const abort = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => abort.abort());
  return { stdout: process.stdout, stderr: process.stderr, signal: abort.signal, env: process.env };
}
