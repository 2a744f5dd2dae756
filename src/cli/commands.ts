// Owns the table of commands: name, arguments, options, examples, action. Actions are loaded when they are run.
import type { z } from 'zod';
import { benchCompareSchema } from './bench/compare-options.ts';
import { benchKernelsSchema } from './bench/kernels-options.ts';
import { benchMachineSchema } from './bench/machine-options.ts';
import { benchServeSchema } from './bench/serve-options.ts';
import { benchStepSchema } from './bench/step-options.ts';
import { type CommandSpec, defineCommand } from './command.ts';
import { commandOptions } from './config/options.ts';
import { modelsCommands } from './models/commands.ts';
import { terminalIo } from './terminal.ts';

const model = {
  name: '[model]',
  about: 'An alias, a path, or org/repo[:quant or file] (default: smollm2-135m-instruct).',
};

export const commands: readonly CommandSpec<z.ZodObject>[] = [
  defineCommand({
    name: 'serve',
    about: 'Serve a model on this machine: service and engine, in two processes.',
    args: [model],
    schema: commandOptions.serve,
    examples: [
      'xllm serve',
      'xllm serve ./model.gguf --port 9000',
      'xllm serve Qwen/Qwen3-0.6B-GGUF:Q8_0 --max-model-len 4096',
    ],
    run: async (options, args) => (await import('./serve.ts')).serve(options, args),
  }),
  defineCommand({
    name: 'chat',
    about: 'Talk to a model in the terminal, with its own server or another.',
    args: [model],
    schema: commandOptions.chat,
    examples: ['xllm chat', 'xllm chat --url http://127.0.0.1:8000', 'xllm chat --system "Answer in one sentence."'],
    run: async (options, args) => (await import('./chat.ts')).chat(options, args),
  }),
  defineCommand({
    name: 'run',
    about: 'Answer one prompt, from the command line or standard input, on standard output.',
    args: [model, { name: '[prompt]', about: 'What to answer (default: standard input).' }],
    schema: commandOptions.run,
    examples: [
      'xllm run smollm2-135m-instruct "What is the capital of France?"',
      'cat notes.txt | xllm run ./model.gguf --max-tokens 100',
    ],
    run: async (options, args) => (await import('./run.ts')).run(options, args),
  }),
  defineCommand({
    name: 'service',
    about: 'Serve HTTP alone; engines register with it.',
    args: [{ name: '[models...]', about: 'Models to expect (default: those that engines bring).' }],
    schema: commandOptions.service,
    examples: [
      'xllm service --listen 127.0.0.1:8100',
      'xllm service ./model-folder smollm2-135m-instruct --port 9000',
      'xllm service --coordinator etcd://10.0.0.5:2379/team-a',
    ],
    run: async (options, args) => (await import('./service.ts')).service(options, args),
  }),
  defineCommand({
    name: 'engine',
    about: 'Compute alone; registers with a service.',
    args: [model],
    schema: commandOptions.engine,
    examples: [
      'xllm engine --coordinator 127.0.0.1:8100',
      'xllm engine ./model.gguf --threads 8 --name engine-1',
      'xllm engine --coordinator etcd://10.0.0.5:2379/team-a --listen 10.0.0.7:8200 --cluster-token-file token',
    ],
    run: async (options, args) => (await import('./engine.ts')).engine(options, args),
  }),
  defineCommand({
    name: 'status',
    about: 'Show the instances behind a server: health, load, KV, step times.',
    args: [],
    schema: commandOptions.status,
    examples: ['xllm status', 'xllm status --url http://10.0.0.5:8000 --json'],
    run: async (options) => {
      process.exitCode = await (await import('./status.ts')).status(options, terminalIo());
    },
  }),
  defineCommand({
    name: 'drain',
    about: 'Let an instance leave: it takes nothing new, what runs there goes on elsewhere, and it exits.',
    args: [{ name: '<instance>', about: 'Its name, as xllm status lists it.' }],
    schema: commandOptions.drain,
    examples: ['xllm drain engine-1', 'xllm drain b0 --url http://10.0.0.5:8000', 'xllm drain engine-0 --force'],
    run: async (options, args) => {
      process.exitCode = await (await import('./drain.ts')).drain(options, args, terminalIo());
    },
  }),
];

export interface CommandGroup {
  readonly name: string;
  readonly about: string;
  readonly commands: readonly CommandSpec<z.ZodObject>[];
}

export const commandGroups: readonly CommandGroup[] = [
  { name: 'models', about: 'List, fetch, inspect, remove and make models.', commands: modelsCommands },
  {
    name: 'bench',
    about: 'Measure servers.',
    commands: [
      defineCommand({
        name: 'serve',
        about: 'Load any OpenAI-compatible server; metrics as vLLM defines them.',
        args: [],
        schema: benchServeSchema,
        examples: ['xllm bench serve --url http://127.0.0.1:8000 --max-concurrency 8'],
        run: async (options) => {
          const { benchServe } = await import('./bench/serve.ts');
          process.exitCode = await benchServe(options, terminalIo());
        },
      }),
      defineCommand({
        name: 'compare',
        about: 'Compare this server with its peers on the same weights and prompts, in turn.',
        args: [],
        schema: benchCompareSchema,
        examples: [
          'xllm bench compare --set-up --peers llama.cpp,openvino',
          'xllm bench compare --quick --models smollm2-135m-instruct',
          'xllm bench compare --models qwen3-0.6b:q8_0 --scenarios decode,closed-8 --json result.json',
        ],
        run: async (options) => {
          const { benchCompare } = await import('./bench/compare.ts');
          process.exitCode = await benchCompare(options, terminalIo());
        },
      }),
      defineCommand({
        name: 'step',
        about: 'Measure the steps of a model, op by op, without HTTP.',
        args: [model],
        schema: benchStepSchema,
        examples: ['xllm bench step --profile', 'xllm bench step qwen3-0.6b --sequences 1,16 --prefill 512,2048'],
        run: async (options, [name]) => {
          const { benchStep } = await import('./bench/step-command.ts');
          await benchStep(options, name, terminalIo());
        },
      }),
      defineCommand({
        name: 'kernels',
        about: 'Measure emitted kernels beside the roofline of this machine and ggml.',
        args: [],
        schema: benchKernelsSchema,
        examples: [
          'xllm bench kernels',
          'xllm bench kernels --only attention,Q8_0 --threads 1 --json kernels.json',
          'xllm bench kernels --listing attention_f16_9_3x64_avx2',
        ],
        run: async (options) => {
          const { benchKernels } = await import('./bench/kernels-command.ts');
          await benchKernels(options, terminalIo());
        },
      }),
      defineCommand({
        name: 'machine',
        about: 'Measure what this machine can do at most: memory reads, int8, bf16 and f32 products.',
        args: [],
        schema: benchMachineSchema,
        examples: ['xllm bench machine', 'xllm bench machine --threads 4 --json roofline.json'],
        run: async (options) => {
          const { benchMachine } = await import('./bench/machine-command.ts');
          benchMachine(options, terminalIo());
        },
      }),
    ],
  },
];

/** Every option key of every command: what a configuration file may hold. */
export const allOptionKeys: ReadonlySet<string> = new Set(
  [...commands, ...commandGroups.flatMap((group) => group.commands)].flatMap(({ schema }) => Object.keys(schema.shape)),
);
