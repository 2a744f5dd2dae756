// Owns what a service holds of the models that its engines have: tokenizer and generation defaults, opened when needed.
import { existsSync } from 'node:fs';
import type { Log } from '../common/log.ts';
import type { EngineModel } from '../service/engine-client.ts';
import type { ModelAssets } from '../service/http/models/served-models.ts';
import { createTextService } from '../service/text/create-text-service.ts';
import { readGenerationDefaults } from './generation-defaults.ts';

export class ModelCatalogue {
  readonly #log: Log;
  /** Where models that nobody has named on the command line may be found by their name. Rejects where they cannot. */
  readonly #find: (name: string) => Promise<string>;
  readonly #assets = new Map<string, ModelAssets>();
  readonly #pending = new Map<string, Promise<void>>();
  #isClosed = false;

  constructor(log: Log, find: (name: string) => Promise<string>) {
    this.#log = log;
    this.#find = find;
  }

  of(name: string): ModelAssets | null {
    return this.#assets.get(name) ?? null;
  }

  /** Rejects with XllmError when the model's files are not what they should be. */
  async open(name: string, path: string): Promise<void> {
    const defaults = await readGenerationDefaults(path);
    const text = await createTextService(path);
    if (this.#isClosed) await text.close();
    else this.#assets.set(name, { text, defaults });
  }

  /** An engine serves it: what the service needs of it is looked for where the engine has it, then by its name. */
  need({ model, modelPath }: EngineModel): void {
    if (this.#assets.has(model) || this.#pending.has(model)) return;
    const opened = this.#openFrom(model, modelPath).catch((error: unknown) => {
      // Tried again when the next engine brings it; until then this model is not served.
      const why = error instanceof Error ? error.message : String(error);
      this.#log.warn(`${model} is not served: its tokenizer was not found; name its files: xllm service PATH (${why})`);
    });
    this.#pending.set(
      model,
      opened.finally(() => this.#pending.delete(model)),
    );
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#pending.values());
    await Promise.all([...this.#assets.values()].map(({ text }) => text.close()));
  }

  async #openFrom(model: string, modelPath: string): Promise<void> {
    const path = modelPath !== '' && existsSync(modelPath) ? modelPath : await this.#find(model);
    await this.open(model, path);
    this.#log.info(`serving ${model}`);
  }
}
