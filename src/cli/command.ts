// Owns how an option schema becomes a commander command, and how a command's failure becomes an exit code.
import { Command, CommanderError, Option } from 'commander';
import type { z } from 'zod';
import { XllmError } from '../common/errors.ts';
import { fieldsOf } from './config/fields.ts';
import { didYouMean } from './config/nearest.ts';
import { resolveOptions } from './config/resolve.ts';

export interface CommandSpec<S extends z.ZodObject> {
  readonly name: string;
  readonly about: string;
  /** `[model]`, `<file>`, … in order. */
  readonly args: readonly { readonly name: string; readonly about: string }[];
  readonly schema: S;
  readonly examples: readonly string[];
  run(options: z.output<S>, args: readonly string[]): Promise<void>;
}

/** Keeps the schema's type between a command's options and its action. */
export function defineCommand<S extends z.ZodObject>(spec: CommandSpec<S>): CommandSpec<z.ZodObject> {
  return spec as unknown as CommandSpec<z.ZodObject>;
}

/** Adds a command under `parent`. `allKeys`: every option key of the product, which a config file may hold. */
export function addCommand(parent: Command, spec: CommandSpec<z.ZodObject>, allKeys: ReadonlySet<string>): void {
  const command = parent
    .command(spec.name)
    .description(spec.about)
    .showHelpAfterError(false)
    .allowExcessArguments(false);
  for (const { name, about } of spec.args) command.argument(name, about);
  const fields = fieldsOf(spec.schema);
  for (const field of fields) {
    const suffix = field.defaultText === '' ? '' : ` (default: ${field.defaultText})`;
    if (field.kind === 'boolean') {
      command.addOption(new Option(field.flag, `${field.description}${suffix}`));
      if (field.defaultText === 'true')
        command.addOption(new Option(field.flag.replace('--', '--no-'), `Not ${field.flag}.`));
    } else {
      const value =
        field.choices.length > 0
          ? field.choices.join('|')
          : field.kind === 'number'
            ? 'n'
            : field.kind === 'list'
              ? 'a,b'
              : 'text';
      const option = new Option(`${field.flag} <${value}>`, `${field.description}${suffix}`);
      // A list may come in commas or in repeats.
      if (field.kind === 'list')
        option.argParser((part: string, before: string[] | undefined) => [...(before ?? []), part]);
      command.addOption(option);
    }
  }
  command.addOption(new Option('--config <file>', 'YAML file with options; flags and XLLM_* variables come first.'));
  command.addHelpText('after', `\nExamples:\n${spec.examples.map((example) => `  ${example}`).join('\n')}\n`);
  command.action(async (...values: unknown[]) => {
    const flags = command.opts<Record<string, unknown>>();
    const { config, ...rest } = flags;
    const options = resolveOptions(
      spec.schema,
      { flags: rest, environment: process.env, configFile: (config as string | undefined) ?? process.env.XLLM_CONFIG },
      allKeys,
    );
    const args = values
      .slice(0, spec.args.length)
      .flat()
      .flatMap((value) => (typeof value === 'string' ? [value] : []));
    await spec.run(options, args);
  });
}

/** Runs the program; user errors are one line on stderr and exit code 1 or 2. */
export async function runProgram(program: Command, argv: readonly string[]): Promise<void> {
  for (const command of [program, ...allCommands(program)]) {
    command.exitOverride();
    command.configureOutput({ writeErr: () => {} });
  }
  try {
    await program.parseAsync([...argv], { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return;
      console.error(`${error.message.replace(/^error: /, 'xllm: ')}${hint(error, program, argv)}`);
      process.exitCode = 2;
      return;
    }
    if (error instanceof XllmError) {
      console.error(`xllm: ${error.message}`);
      process.exitCode = error.status > 2 ? 1 : error.status;
      return;
    }
    throw error;
  }
}

function allCommands(program: Command): Command[] {
  return program.commands.flatMap((command) => [command, ...allCommands(command)]);
}

/** Commander suggests near flags itself; for the rest say where help is. */
function hint(error: CommanderError, program: Command, argv: readonly string[]): string {
  const name = argv[0] ?? '';
  if (error.code === 'commander.unknownCommand' && !/Did you mean/.test(error.message)) {
    return `${didYouMean(
      name,
      program.commands.map((command) => command.name()),
    )}\nSee xllm --help.`;
  }
  const known = program.commands.some((command) => command.name() === name);
  return `\nSee xllm ${known ? `${name} ` : ''}--help.`;
}
