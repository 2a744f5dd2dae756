// Owns the names under which models are served, and what a request for a name reaches.
import { XllmError } from '../../../common/errors.ts';
import type { EngineClient, EngineModel } from '../../engine-client.ts';
import type { TextService } from '../../text/text-service.ts';
import type { GenerationDefaults } from '../config.ts';

/** What the service itself holds of a model. */
export interface ModelAssets {
  readonly text: TextService;
  /** The model's own generation config: what a request gets where it says nothing. */
  readonly defaults: GenerationDefaults;
}

/** null: nothing (yet), so that the model cannot be served although engines have it. */
export type AssetsOf = (model: string) => ModelAssets | null;

export interface ServedModel extends ModelAssets {
  /** In replies and metrics. */
  readonly name: string;
  readonly engine: EngineModel;
}

export interface ServedNames {
  /** The one model answers to each of these, the first appears in replies. Empty: models go by their own names. */
  readonly aliases: readonly string[];
  /** Models that will be served, though no engine has registered yet or any more. */
  readonly expected: readonly string[];
}

export class ServedModels {
  readonly #engine: EngineClient;
  readonly #assetsOf: AssetsOf;
  readonly #names: ServedNames;

  constructor(engine: EngineClient, assetsOf: AssetsOf, names: ServedNames) {
    this.#engine = engine;
    this.#assetsOf = assetsOf;
    this.#names = names;
  }

  /** Those of GET /v1/models. */
  get names(): readonly string[] {
    return this.#names.aliases.length > 0 ? this.#names.aliases : this.#served().map(({ name }) => name);
  }

  /** Whether a request sent now would reach a model. */
  get isReady(): boolean {
    return this.#served().length > 0;
  }

  /** The name in replies and metrics of what engines call `model`. */
  nameOf(model: string): string {
    return this.#names.aliases[0] ?? model;
  }

  /** null: no engine has it now. */
  lookup(name: string): ServedModel | null {
    const { aliases } = this.#names;
    const served = this.#served();
    if (aliases.length > 0) return aliases.includes(name) ? (served[0] ?? null) : null;
    return served.find((model) => model.name === name) ?? null;
  }

  /**
   * The model that a request for `name` reaches; without a name, the only one there is.
   * Throws XllmError `model_not_found`, `invalid_request`, or `engine_unavailable` while no engine has it.
   */
  resolve(name: string | null | undefined): ServedModel {
    const { aliases, expected } = this.#names;
    if (typeof name === 'string') {
      const found = this.lookup(name);
      if (found) return found;
      const known = [...new Set([...this.names, ...expected])];
      if (known.length > 0 && !known.includes(name)) throw notFound(name, known);
      throw unavailable(aliases.length > 0 || known.length === 0 ? null : name);
    }
    const [first, ...others] = this.#served();
    if (!first) throw unavailable(null);
    if (others.length === 0) return first;
    const names = this.names.join(', ');
    throw new XllmError('invalid_request', `Several models are served; name one of ${names}.`, { param: 'model' });
  }

  #served(): ServedModel[] {
    return this.#engine.models.flatMap((engine) => {
      const assets = this.#assetsOf(engine.model);
      return assets ? [{ ...assets, engine, name: this.nameOf(engine.model) }] : [];
    });
  }
}

export function notFound(name: string, known: readonly string[]): XllmError {
  const others = known.length > 0 ? `; try ${known.join(', ')}` : '';
  return new XllmError('model_not_found', `The model ${JSON.stringify(name)} is not served${others}.`, {
    param: 'model',
  });
}

function unavailable(name: string | null): XllmError {
  const message =
    name === null
      ? 'The engine is starting or restarting; retry in a second.'
      : `No engine serves ${JSON.stringify(name)} right now; retry in a second.`;
  return new XllmError('engine_unavailable', message, { retryAfterS: 1 });
}
