// Owns the command line: every command, its help and its examples.
import { Command } from 'commander';
import { BUILD } from '../contract/protocol.ts';
import { addCommand, runProgram } from './command.ts';
import { allOptionKeys, commandGroups, commands } from './commands.ts';

/** Runs `xllm ARGV`; sets the exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  // `xllm models list | head`: a reader that has seen enough is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  const program = new Command('xllm')
    .description('Serve language models on ordinary machines, through the OpenAI API.')
    .version(BUILD, '-V, --version', 'Print the version.')
    .helpOption('-h, --help', 'Show help.')
    .addHelpText('after', '\nStart here:\n  xllm serve        then open http://127.0.0.1:8000\n');
  for (const spec of commands) addCommand(program, spec, allOptionKeys);
  for (const { name, about, commands: members } of commandGroups) {
    const group = program.command(name).description(about);
    for (const spec of members) addCommand(group, spec, allOptionKeys);
  }
  if (argv.length === 0) {
    program.outputHelp();
    return;
  }
  await runProgram(program, argv);
}
