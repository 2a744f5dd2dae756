// Precedence and refusals as a user meets them: flags over variables over file over defaults, nearest names.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fieldsOf } from './fields.ts';
import { nearestWord } from './nearest.ts';
import { commandOptions, parseBytes } from './options.ts';
import { resolveOptions } from './resolve.ts';

const schema = commandOptions.serve;
const allKeys = new Set(Object.values(commandOptions).flatMap((options) => Object.keys(options.shape)));
let folder: string;
const file = (text: string) => {
  const path = join(folder, 'xllm.yaml');
  writeFileSync(path, text);
  return path;
};
const resolve = (flags: Record<string, unknown>, environment: Record<string, string> = {}, text?: string) =>
  resolveOptions(schema, { flags, environment, configFile: text === undefined ? undefined : file(text) }, allKeys);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'xllm-config-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('precedence', () => {
  test('flag, then variable, then file, then default', () => {
    const text = 'port: 1\nmax-num-seqs: 3\nthreads: 9\n';
    const options = resolve({ port: '5' }, { XLLM_PORT: '4', XLLM_MAX_NUM_SEQS: '7' }, text);
    expect(options).toMatchObject({ port: 5, maxNumSeqs: 7, threads: 9, host: '127.0.0.1' });
  });

  test('lists come from commas or repeats, booleans from words, sizes with units', () => {
    const options = resolve(
      { servedModelName: ['a,b', 'c'], kvCacheMemory: '1.5GiB' },
      { XLLM_ASYNC_SCHEDULING: 'off' },
    );
    expect(options.servedModelName).toEqual(['a', 'b', 'c']);
    expect(options.asyncScheduling).toBe(false);
    expect(options.kvCacheMemory).toBe(1.5 * 2 ** 30);
  });

  test('a file may hold keys of other commands', () => {
    expect(resolve({}, {}, 'coordinator: unix:/x\n').port).toBe(8000);
  });
});

describe('refusals name the source and the nearest right name', () => {
  test.each([
    [{ port: 'abc' }, {}, undefined, /--port.*number.*abc/],
    [{ port: '70000' }, {}, undefined, /--port.*65535/],
    [{}, { XLLM_PRT: '1' }, undefined, /unknown variable XLLM_PRT. Did you mean XLLM_PORT\?/],
    [{}, {}, 'max-num-seq: 1', /unknown key max-num-seq. Did you mean maxNumSeqs\?/],
    [{}, {}, 'dtype: float64', /dtype in .*float64/],
    [{}, {}, '- a', /must hold/],
    [{ kvCacheMemory: 'lots' }, {}, undefined, /--kv-cache-memory.*512MiB/],
  ])('%j %j %j', (flags, environment, text, message) => {
    expect(() => resolve(flags, environment, text)).toThrow(message);
  });
});

test('every option has a description and a flag of its own', () => {
  for (const options of Object.values(commandOptions)) {
    const fields = fieldsOf(options);
    expect(new Set(fields.map((field) => field.flag)).size).toBe(fields.length);
    for (const field of fields) expect(field.description, field.key).not.toBe('');
  }
});

test('sizes round trip', () => {
  fc.assert(
    fc.property(fc.nat(4000), fc.constantFrom(['', 0], ['KiB', 1], ['M', 2], ['GiB', 3]), (value, [unit, power]) => {
      expect(parseBytes(`${value}${unit}`)).toBe(value * 1024 ** Number(power));
    }),
  );
});

test('nearest finds one slip and leaves strangers alone', () => {
  expect(nearestWord('maxNumSeq', allKeys)).toBe('maxNumSeqs');
  expect(nearestWord('zzzzzz', allKeys)).toBeNull();
});
