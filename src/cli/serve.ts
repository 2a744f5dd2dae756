// Owns `xllm serve`: a server in the terminal, from its start-up summary to its orderly end.
import type { ServeOptions } from './config/options.ts';
import { startServer } from './server.ts';
import { untilStopped } from './shutdown.ts';
import { startupSummary } from './summary.ts';

export async function serve(options: ServeOptions, [modelSpec]: readonly string[]): Promise<void> {
  const startMs = performance.now();
  const server = await startServer(options, modelSpec);
  console.log(
    startupSummary({ ...server, engineSummary: server.model.summary, startupMs: performance.now() - startMs }),
  );
  process.exitCode = await untilStopped(server, options.drainTimeoutS * 1_000, server.log);
}
