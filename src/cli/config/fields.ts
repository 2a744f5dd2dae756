// Owns what one option looks like outside the schema: its flag, variable and config key, and text made into a value.
import { z } from 'zod';

export interface OptionField {
  readonly key: string;
  /** `--max-num-seqs` */
  readonly flag: string;
  /** `XLLM_MAX_NUM_SEQS` */
  readonly variable: string;
  readonly kind: 'boolean' | 'number' | 'string' | 'list';
  readonly choices: readonly string[];
  readonly description: string;
  readonly defaultText: string;
}

interface JsonProperty {
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly description?: string;
  readonly default?: unknown;
}

/** The fields of an option schema, in its order. */
export function fieldsOf(schema: z.ZodObject): OptionField[] {
  const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  return Object.entries((json.properties ?? {}) as Record<string, JsonProperty>).map(([key, property]) => ({
    key,
    flag: `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
    variable: `XLLM_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`,
    kind: kindOf(property),
    choices: (property.enum ?? []).map(String),
    description: property.description ?? '',
    defaultText: defaultText(property.default),
  }));
}

function kindOf(property: JsonProperty): OptionField['kind'] {
  switch (property.type) {
    case 'boolean':
      return 'boolean';
    case 'integer':
    case 'number':
      return 'number';
    case 'array':
      return 'list';
    default:
      return property.enum?.every((value) => typeof value === 'number') ? 'number' : 'string';
  }
}

function defaultText(value: unknown): string {
  if (value === undefined || (Array.isArray(value) && value.length === 0)) return '';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** What a flag's or variable's text means. Text that fits no value is left as it is, for the schema to refuse. */
export function valueOfText(field: OptionField, text: string): unknown {
  switch (field.kind) {
    case 'boolean':
      return ['1', 'true', 'yes', 'on'].includes(text)
        ? true
        : ['0', 'false', 'no', 'off'].includes(text)
          ? false
          : text;
    case 'number':
      return text.trim() === '' || Number.isNaN(Number(text)) ? text : Number(text);
    case 'list':
      return text.split(',').map((part) => part.trim());
    case 'string':
      return text;
  }
}
