// Measures starts: first (nothing cached) and second, to ready and to the first token, what they were spent on, and memory.
// node bench/startup.ts [MODEL] [--rounds N] [--json FILE] [-- flags of xllm serve]
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable } from '../src/cli/bench/table.ts';
import { resolveModel } from '../src/files/resolve/resolve-model.ts';
import { modelSettings } from '../src/files/resolve/settings.ts';

const entry = join(import.meta.dirname, '../bin/xllm.js');
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '3' }, json: { type: 'string' } },
});
const [spec, ...flags] = positionals;
const { path } = await resolveModel(spec, { settings: modelSettings(process.env) });

type Ms = Readonly<Record<string, number>>;
interface Start {
  readonly readyMs: number;
  readonly firstTokenMs: number;
  readonly service: Ms;
  readonly engine: Ms;
  /** As the start-up summary says it. */
  readonly weights: string;
  readonly weightsCpuMs: number;
  /** Of the whole process, up to the first token. */
  readonly engineCpuMs: number;
  readonly serviceCpuMs: number;
  readonly engineMb: number;
  /** Without the KV pool's pages. */
  readonly engineOwnMb: number;
  readonly serviceMb: number;
}

const megabytes = (pid: number, field: string) =>
  (1_024 *
    Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1])) /
  1e6;
/** Fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms. */
const cpuMs = (pid: number) => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return 10 * (Number(fields[11]) + Number(fields[12]));
};
const numbersOf = (line: object): Ms =>
  Object.fromEntries(Object.entries(line).filter(([, value]) => typeof value === 'number'));

async function start(cache: string): Promise<Start> {
  const startMs = performance.now();
  const logging = ['--log-format', 'json', '--log-level', 'debug'];
  const child = spawn(process.execPath, [entry, 'serve', path, '--port', '0', '--cache', cache, ...logging, ...flags], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()));
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  try {
    const url = await new Promise<string>((resolve, reject) => {
      child.stdout.on('data', () => {
        const match = /http:\/\/127\.0\.0\.1:\d+/.exec(output);
        if (match) resolve(match[0]);
      });
      void exited.then(() => reject(new Error(`the server ended:\n${log}`)));
    });
    const readyMs = performance.now() - startMs;
    const reply = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: [1, 2, 3, 4, 5, 6, 7, 8], max_tokens: 1, ignore_eos: true }),
    });
    if (!reply.ok) throw new Error(await reply.text());
    await reply.text();
    const firstTokenMs = performance.now() - startMs;
    const lines = log.split('\n').filter((line) => line.startsWith('{'));
    const line = (message: string): Ms =>
      numbersOf(
        lines.map((text) => JSON.parse(text) as { message: string }).find((each) => each.message === message) ?? {},
      );
    const weights = /weights +(.+)/.exec(output)?.[1] ?? '';
    const enginePid = Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').split(' ')[0]);
    const engineMb = megabytes(enginePid, 'Pss');
    return {
      readyMs,
      firstTokenMs,
      service: line('service start-up in ms'),
      engine: line('engine start-up in ms'),
      weights,
      weightsCpuMs: 1_000 * Number(/\((\d+\.\d+) s of CPU\)/.exec(weights)?.[1]),
      engineCpuMs: cpuMs(enginePid),
      serviceCpuMs: cpuMs(child.pid ?? -1),
      engineMb,
      engineOwnMb: engineMb - megabytes(enginePid, 'Pss_Shmem'),
      serviceMb: megabytes(child.pid ?? -1, 'Pss'),
    };
  } finally {
    child.kill('SIGTERM');
    await exited;
  }
}

const rounds: { first: Start; second: Start }[] = [];
for (let round = 0; round < Number(values.rounds); round++) {
  const cache = mkdtempSync(join(tmpdir(), 'xllm-startup-'));
  rounds.push({ first: await start(cache), second: await start(cache) });
  rmSync(cache, { recursive: true });
}

/** The least of the rounds: what the machine can do when it is left alone. */
const least = (which: 'first' | 'second', pick: (start: Start) => number | undefined) =>
  Math.min(...rounds.map((round) => pick(round[which]) ?? 0));
const row = (name: string, pick: (start: Start) => number | undefined) => {
  return [name, least('first', pick), least('second', pick)];
};
const parts = (half: 'service' | 'engine') =>
  Object.keys(rounds[0]?.first[half] ?? {}).map((part) => row(`  ${half}: ${part}`, (each) => each[half][part]));
const rows = [
  row('to ready, ms', ({ readyMs }) => readyMs),
  row('to the first token, ms', ({ firstTokenMs }) => firstTokenMs),
  ...parts('service'),
  ...parts('engine'),
  row('weights, CPU ms', ({ weightsCpuMs }) => weightsCpuMs),
  row('engine, CPU ms', ({ engineCpuMs }) => engineCpuMs),
  row('service, CPU ms', ({ serviceCpuMs }) => serviceCpuMs),
  row('engine, MB (PSS)', ({ engineMb }) => engineMb),
  row('engine without KV, MB', ({ engineOwnMb }) => engineOwnMb),
  row('service, MB (PSS)', ({ serviceMb }) => serviceMb),
];
console.log(`${path}, least of ${rounds.length} rounds\n`);
console.log(formatTable(['', 'first start', 'second start'], rows, false));
console.log(rounds.at(-1)?.first.weights);
console.log(rounds.at(-1)?.second.weights);
if (values.json) writeFileSync(values.json, `${JSON.stringify(rounds, undefined, 1)}\n`);
