// Owns reading typed fields out of a model's configuration, with errors that name the file, the key and the value.
import { XllmError } from '../../common/errors.ts';
import type { GgufMetadata, Json, JsonObject } from '../../files/weights-file.ts';

/** One view of config.json objects and GGUF metadata. Null counts as absent. */
export class Fields {
  readonly #get: (key: string) => unknown;
  readonly #where: string;

  private constructor(get: (key: string) => unknown, where: string) {
    this.#get = get;
    this.#where = where;
  }

  static ofJson(json: JsonObject, where: string): Fields {
    return new Fields((key) => json[key], where);
  }

  /** Keys are prefixed with the architecture's name, except those with a known first part. */
  static ofGguf(metadata: GgufMetadata, architecture: string): Fields {
    const isGlobal = (key: string) => /^(general|tokenizer)\./.test(key);
    return new Fields((key) => metadata.get(isGlobal(key) ? key : `${architecture}.${key}`), 'GGUF metadata');
  }

  has(key: string): boolean {
    const value = this.#get(key);
    return value !== undefined && value !== null;
  }

  /** A positive integer. Throws model_file_invalid where it is absent without `fallback`, or something else. */
  count(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (!Number.isSafeInteger(value) || value < 1) throw this.#invalid(key, 'a positive integer', value);
    return value;
  }

  number(key: string, fallback?: number): number {
    const value = this.has(key) ? this.#get(key) : fallback;
    const number = typeof value === 'bigint' ? Number(value) : value;
    if (typeof number !== 'number' || !Number.isFinite(number)) throw this.#invalid(key, 'a number', value);
    return number;
  }

  text(key: string, fallback?: string): string {
    const value = this.has(key) ? this.#get(key) : fallback;
    if (typeof value !== 'string') throw this.#invalid(key, 'a string', value);
    return value;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.has(key) ? this.#get(key) : fallback;
    if (typeof value !== 'boolean') throw this.#invalid(key, 'true or false', value);
    return value;
  }

  isList(key: string): boolean {
    const value = this.#get(key);
    return Array.isArray(value) || ArrayBuffer.isView(value);
  }

  /** A list, or null where absent. */
  list(key: string): readonly unknown[] | null {
    if (!this.has(key)) return null;
    const value = this.#get(key);
    if (ArrayBuffer.isView(value)) return [...(value as unknown as Iterable<unknown>)];
    if (!Array.isArray(value)) throw this.#invalid(key, 'a list', value);
    return value as unknown[];
  }

  /** The first entry of a list of strings. */
  firstText(key: string): string {
    const value = this.list(key)?.[0];
    if (typeof value !== 'string') throw this.#invalid(key, 'a list of strings', value);
    return value;
  }

  /** The fields of a nested object; null where absent. */
  nested(key: string): Fields | null {
    if (!this.has(key)) return null;
    const value = this.#get(key) as Json;
    if (typeof value !== 'object' || Array.isArray(value)) throw this.#invalid(key, 'an object', value);
    return Fields.ofJson(value as JsonObject, `${this.#where}, ${key}`);
  }

  /** A token id, a list of them, or nothing. */
  tokenIds(key: string): number[] {
    const ids = this.has(key) && !this.isList(key) ? [this.number(key)] : (this.list(key) ?? []);
    return ids.map((id) => {
      if (!Number.isSafeInteger(id)) throw this.#invalid(key, 'token ids', id);
      return id as number;
    });
  }

  #invalid(key: string, wanted: string, value: unknown): XllmError {
    const shown = value === undefined || value === null ? 'missing' : JSON.stringify(value);
    return new XllmError('model_file_invalid', `${this.#where}: "${key}" must be ${wanted}, is ${shown}`);
  }
}
