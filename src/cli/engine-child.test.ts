// What `serve` hands to its engine arrives there as it was, whatever the options.
import { describe, expect, test } from 'vitest';
import { Command } from 'commander';
import { addCommand, defineCommand, runProgram } from './command.ts';
import { allOptionKeys } from './commands.ts';
import { commandOptions } from './config/options.ts';
import { flagsOf } from './engine-child.ts';

/** Parses flags as `xllm engine` would. */
async function parsed(flags: readonly string[]): Promise<unknown> {
  const program = new Command('xllm');
  let result: unknown = null;
  const spec = defineCommand({
    name: 'engine',
    about: '',
    args: [],
    schema: commandOptions.engine,
    examples: [],
    run: (options) => {
      result = options;
      return Promise.resolve();
    },
  });
  addCommand(program, spec, allOptionKeys);
  await runProgram(program, ['engine', ...flags]);
  return result;
}

describe('flags of an engine child', () => {
  test.each([
    {},
    { asyncScheduling: false, enablePrefixCaching: false, deterministic: true },
    { threads: 3, maxModelLen: 512, kvCacheMemory: '64MiB', kvLayout: 'blocks', dtype: 'float32', kernels: 'ggml' },
    { supervised: true, modelName: 'a b', coordinator: 'unix:/tmp/x y.sock' },
  ] as const)('%j', async (given) => {
    const options = commandOptions.engine.parse(given);
    expect(await parsed(flagsOf(options))).toEqual(options);
  });
});
