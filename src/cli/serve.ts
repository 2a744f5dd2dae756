// Owns `xllm serve`: a server in the terminal, from its start-up summary to its orderly end.
import type { ServeOptions } from './config/options.ts';
import { startServer } from './server.ts';
import { untilStopped } from './shutdown.ts';
import { startupSummary } from './summary.ts';

export async function serve(options: ServeOptions, [modelSpec]: readonly string[]): Promise<void> {
  // Since the process began: Node itself, and reading and compiling modules.
  const processMs = performance.now();
  const server = await startServer(options, modelSpec);
  const startMs = { process: processMs, ...server.startMs };
  server.log.debug('service start-up in ms', startMs);
  console.log(startupSummary({ ...server, engineSummary: server.model.summary, startMs }));
  process.exitCode = await untilStopped(server, options.drainTimeoutS * 1_000, server.log);
}
