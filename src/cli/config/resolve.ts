// Owns precedence: flags over variables over the config file over defaults, checked once, with a clear refusal.
import { readFileSync } from 'node:fs';
import { parse as parseYaml } from 'yaml';
import type { z } from 'zod';
import { XllmError } from '../../common/errors.ts';
import { fieldsOf, type OptionField, valueOfText } from './fields.ts';
import { didYouMean } from './nearest.ts';

export interface ConfigSources {
  /** By key, as text (or true/false for boolean flags, a list for repeated ones). */
  readonly flags: Readonly<Record<string, unknown>>;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly configFile: string | undefined;
}

/** Variables that are no options: secrets and switches read elsewhere. */
const OTHER_VARIABLES = new Set([
  'XLLM_API_KEY',
  'XLLM_CLUSTER_TOKEN',
  'XLLM_CONFIG',
  'XLLM_COORDINATOR_PASSWORD',
  'XLLM_TEST_FULL',
]);

/**
 * The options of one command. Config files may hold keys of every command (`allKeys`), camelCase or kebab-case.
 * Throws XllmError `usage`, naming the source and the nearest right name.
 */
export function resolveOptions<S extends z.ZodObject>(
  schema: S,
  sources: ConfigSources,
  allKeys: ReadonlySet<string>,
): z.output<S> {
  const fields = new Map(fieldsOf(schema).map((field) => [field.key, field]));
  const values: Record<string, unknown> = {};
  const origin: Record<string, string> = {};
  for (const [key, value] of Object.entries(fileValues(sources.configFile, allKeys))) {
    if (!fields.has(key)) continue;
    values[key] = value;
    origin[key] = `${key} in ${sources.configFile}`;
  }
  for (const field of fields.values()) {
    const text = sources.environment[field.variable];
    if (text === undefined) continue;
    values[field.key] = valueOfText(field, text);
    origin[field.key] = field.variable;
  }
  checkVariables(sources.environment, allKeys);
  for (const [key, value] of Object.entries(sources.flags)) {
    const field = fields.get(key);
    if (!field || value === undefined) continue;
    values[key] = flagValue(field, value);
    origin[key] = field.flag;
  }
  const parsed = schema.safeParse(values);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const key = String(issue?.path[0]);
  const given = key in values ? ` (given: ${JSON.stringify(values[key])})` : '';
  throw new XllmError('usage', `${origin[key] ?? key}: ${issue?.message ?? 'is not valid'}${given}`);
}

function flagValue(field: OptionField, value: unknown): unknown {
  if (Array.isArray(value)) return value.flatMap((part) => valueOfText(field, String(part)));
  return typeof value === 'string' ? valueOfText(field, value) : value;
}

function fileValues(path: string | undefined, allKeys: ReadonlySet<string>): Record<string, unknown> {
  if (path === undefined) return {};
  let value: unknown;
  try {
    value = parseYaml(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new XllmError(
      'usage',
      `config file ${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
  if (value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value))
    throw new XllmError('usage', `config file ${path} must hold "key: value" lines`);
  const values: Record<string, unknown> = {};
  for (const [name, entry] of Object.entries(value)) {
    const key = name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
    if (!allKeys.has(key))
      throw new XllmError('usage', `config file ${path}: unknown key ${name}.${didYouMean(key, allKeys)}`);
    values[key] = entry;
  }
  return values;
}

function checkVariables(environment: Readonly<Record<string, string | undefined>>, allKeys: ReadonlySet<string>): void {
  const known = new Set(
    [...allKeys].map((key) => `XLLM_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`),
  );
  for (const name of Object.keys(environment)) {
    if (!name.startsWith('XLLM_') || known.has(name) || OTHER_VARIABLES.has(name)) continue;
    throw new XllmError('usage', `unknown variable ${name}.${didYouMean(name, known)}`);
  }
}
