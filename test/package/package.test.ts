// The published package in an empty project: installs, serves, tokenises, type-checks, and leaves the project's Node alone.
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventually, root } from '../support/server.ts';

const execute = promisify(execFile);
let folder: string;
let project: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'xllm-package-'));
  project = join(folder, 'project');
  mkdirSync(project);
  await execute(process.execPath, [join(root, 'scripts/build.ts')], { cwd: root });
  await execute('npm', ['pack', '--pack-destination', folder], { cwd: join(root, 'dist') });
  const tarball = readdirSync(folder).find((name) => name.endsWith('.tgz'));
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'empty', private: true, type: 'module' }));
  await execute('npm', ['install', '--no-audit', '--no-fund', join(folder, tarball ?? '')], { cwd: project });
}, 600_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("the project's own Node stays what it was", async () => {
  expect(readdirSync(join(project, 'node_modules', '.bin'))).not.toContain('node');
});

test('it carries what is no TypeScript', () => {
  const installed = (path: string) => existsSync(join(project, 'node_modules/xllm/src', path));
  for (const path of ['service/http/page/index.html', 'contract/xllm.proto', 'cli/bench/peers/openvino-server.py'])
    expect(installed(path), path).toBe(true);
});

test('it serves and tokenises a long prompt', async () => {
  const { spawn } = await import('node:child_process');
  const child = spawn(process.execPath, [join(project, 'node_modules/xllm/bin/xllm.js'), 'serve', '--port', '0'], {
    cwd: project,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  try {
    const url = await eventually(async () => {
      const match = /http:\/\/127\.0\.0\.1:\d+/.exec(output)?.[0];
      return match && (await fetch(`${match}/ready`)).ok ? match : null;
    }, 'the installed package serves');
    const post = async (path: string, body: object) =>
      (
        await fetch(`${url}${path}`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(body),
        })
      ).json();
    const long = 'The quick brown fox jumps over the lazy dog. '.repeat(2_000);
    const tokens = (await post('/tokenize', { prompt: long })) as { count: number };
    expect(tokens.count).toBeGreaterThan(15_000);
    const reply = (await post('/v1/completions', { prompt: 'Hello', max_tokens: 4 })) as {
      usage: { completion_tokens: number };
    };
    expect(reply.usage.completion_tokens).toBe(4);
  } finally {
    child.kill('SIGTERM');
    await exited;
  }
});

test('an import type-checks', async () => {
  writeFileSync(
    join(project, 'use.ts'),
    `import { errorCatalogue, XllmError, startServer, type Server } from 'xllm';
import { SamplingSchema } from 'xllm/contract';
const code: keyof typeof errorCatalogue = 'overloaded';
export const error = new XllmError(code, 'busy');
export const name: string = SamplingSchema.typeName;
export async function serve(): Promise<Server> {
  return startServer({ port: 0 });
}
`,
  );
  writeFileSync(
    join(project, 'tsconfig.json'),
    JSON.stringify({
      compilerOptions: {
        strict: true,
        module: 'nodenext',
        target: 'es2024',
        noEmit: true,
        skipLibCheck: false,
        types: [],
      },
      files: ['use.ts'],
    }),
  );
  // The compiler is the project's own business: borrowed here.
  await execute(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', project]).catch(
    (error: { stdout: string }) => {
      throw new Error(error.stdout);
    },
  );
}, 120_000);
