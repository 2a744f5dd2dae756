// Owns the comparison of rendered chat templates with what transformers renders.
import { describe, expect, it } from 'vitest';
import { JinjaTemplate, TemplateRefusal } from '../../src/service/text/jinja.ts';
import { readFixture, readRows } from './text-fixtures.ts';

interface TemplateRow {
  readonly template: string;
  readonly messages: readonly unknown[];
  readonly tools?: readonly unknown[];
  readonly kwargs?: Readonly<Record<string, unknown>>;
  readonly special_tokens?: Readonly<Record<string, string>>;
  readonly add_generation_prompt: boolean;
  readonly expected?: string;
  readonly error?: string;
}

/** Rows, by number in the file, that differ from transformers. A row that starts to match must leave this table. */
const knownToDiffer: Readonly<Record<string, readonly number[]>> = {
  smollm2: [],
  qwen3: [],
  chatml: [],
  inst: [],
  sink: [],
};

const rows = readRows<TemplateRow>('chat-templates.jsonl').map((row, number) => ({ ...row, number }));
const limits = { maxSteps: 1_000_000, maxUnits: 1_000_000 };

function render(row: TemplateRow): string {
  const template = new JinjaTemplate(readFixture(`templates/${row.template}.jinja`));
  const { messages, tools = null, kwargs, special_tokens: specialTokens } = row;
  const variables = { messages, tools, add_generation_prompt: row.add_generation_prompt, ...specialTokens, ...kwargs };
  return template.render(variables, 0, limits);
}

/** Why the row differs, null if it does not. */
function difference(row: TemplateRow): string | null {
  try {
    const text = render(row);
    if (row.expected === undefined) return `renders ${JSON.stringify(text)}`;
    return text === row.expected ? null : `${JSON.stringify(text)} is not ${JSON.stringify(row.expected)}`;
  } catch (error) {
    const { message } = error as Error;
    if (row.error === undefined) return message;
    return error instanceof TemplateRefusal && message !== row.error ? message : null;
  }
}

describe.each(Object.entries(knownToDiffer))('the rows of template %s', (name, known) => {
  it('match, except those in the table', () => {
    const ofTemplate = rows.filter((row) => row.template === name);
    expect(ofTemplate.length).toBeGreaterThan(30);
    const differences = ofTemplate.flatMap((row) => {
      const what = difference(row);
      return what === null ? [] : [{ number: row.number, what }];
    });
    expect(differences.filter(({ number }) => !known.includes(number))).toEqual([]);
    expect(known.filter((number) => !differences.some((found) => found.number === number))).toEqual([]);
  });
});
