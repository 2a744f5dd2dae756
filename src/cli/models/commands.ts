// Owns the table of `xllm models` commands. Actions are loaded when they are run.
import type { z } from 'zod';
import { type CommandSpec, defineCommand } from '../command.ts';
import { terminalIo } from '../terminal.ts';
import { modelsOptions, shapeNames } from './options.ts';

const model = { name: '[model]', about: 'An alias, a path, or org/repo[:quant or file] (default: the default model).' };

export const modelsCommands: readonly CommandSpec<z.ZodObject>[] = [
  defineCommand({
    name: 'list',
    about: 'List models that have a short name, and what the cache holds.',
    args: [],
    schema: modelsOptions.list,
    examples: ['xllm models list'],
    run: async (options) => (await import('./list.ts')).listModels(options, terminalIo()),
  }),
  defineCommand({
    name: 'pull',
    about: 'Fetch a model into the cache, or what has changed of it.',
    args: [model],
    schema: modelsOptions.pull,
    examples: ['xllm models pull', 'xllm models pull qwen3-0.6b', 'xllm models pull Qwen/Qwen3-0.6B-GGUF:Q8_0'],
    run: async (options, [spec]) => (await import('./pull.ts')).pullModel(options, spec, terminalIo()),
  }),
  defineCommand({
    name: 'inspect',
    about: "Show a model's architecture, formats, memory and metadata without loading it.",
    args: [model],
    schema: modelsOptions.inspect,
    examples: ['xllm models inspect', 'xllm models inspect ./model.gguf --tensors'],
    run: async (options, [spec]) => (await import('./inspect.ts')).inspectModel(options, spec, terminalIo()),
  }),
  defineCommand({
    name: 'rm',
    about: 'Remove a model from the cache.',
    args: [{ name: '<model>', about: 'An alias, or org/repo with all its files.' }],
    schema: modelsOptions.rm,
    examples: ['xllm models rm qwen3-0.6b'],
    run: async (options, [spec = '']) => (await import('./pull.ts')).removeModel(options, spec, terminalIo()),
  }),
  defineCommand({
    name: 'synth',
    about: 'Write a GGUF file of random weights in the shape of a model, to measure with.',
    args: [{ name: '<shape>', about: `One of ${shapeNames.join(', ')}.` }],
    schema: modelsOptions.synth,
    examples: ['xllm models synth qwen3-0.6b', 'xllm models synth tiny-llama --type f32 --tokenizer none --out t.gguf'],
    run: async (options, [shape = '']) => (await import('./synth.ts')).synthModel(options, shape, terminalIo()),
  }),
];
