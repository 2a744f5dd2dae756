// Owns the names under which the model is served.
import { XllmError } from '../../../common/errors.ts';
import type { EngineClient, EngineModel } from '../../engine-client.ts';

export class ServedModels {
  readonly #engine: EngineClient;
  readonly #names: readonly string[];

  /** `names` empty: the engine's own name. */
  constructor(engine: EngineClient, names: readonly string[]) {
    this.#engine = engine;
    this.#names = names;
  }

  get names(): readonly string[] {
    if (this.#names.length > 0) return this.#names;
    return this.#engine.model ? [this.#engine.model.model] : [];
  }

  /** The name in replies and metrics; "" while none is known. */
  get primaryName(): string {
    return this.names[0] ?? '';
  }

  /**
   * The model that a request for `name` reaches.
   * Throws XllmError `model_not_found`, or `engine_unavailable` while no engine is connected.
   */
  resolve(name: string | null | undefined): EngineModel {
    const { names } = this;
    if (typeof name === 'string' && names.length > 0 && !names.includes(name)) {
      throw new XllmError(
        'model_not_found',
        `The model ${JSON.stringify(name)} is not served; try ${names.join(', ')}.`,
        {
          param: 'model',
        },
      );
    }
    const { model } = this.#engine;
    if (!model) {
      throw new XllmError('engine_unavailable', 'The engine is starting or restarting; retry in a second.', {
        retryAfterS: 1,
      });
    }
    return model;
  }
}
