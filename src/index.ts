// Owns what the package exports: a server inside your own program, and the errors it speaks.
import type { z } from 'zod';
import { commandOptions } from './cli/config/options.ts';
import { type Server, startServer as startServerWith } from './cli/server.ts';

export { type ErrorCode, errorCatalogue, XllmError } from './common/errors.ts';
export type { Server };

/** The options of `xllm serve` under their configuration names; all have defaults (docs/flags.md). */
export type ServerOptions = z.input<typeof commandOptions.serve>;

/**
 * Serves a model on this machine. The engine runs in a process of its own; `close` ends it.
 * `model`: an alias, a path, or org/repo[:quant or file]; the default model where left out.
 * Rejects with XllmError, leaving nothing running, and with a ZodError for options that are not valid.
 */
export async function startServer(options: ServerOptions = {}, model?: string): Promise<Server> {
  return startServerWith(commandOptions.serve.parse(options), model);
}
