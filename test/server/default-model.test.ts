// What a new user does first: the default model answers, over HTTP, streamed, in the browser page, and in every example.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Browser, chromium } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { root, runProgram, startServer, type TestServer } from '../support/server.ts';

const execute = promisify(execFile);
const question = 'What is the capital of France?';
let server: TestServer;

beforeAll(async () => {
  server = await startServer([]);
});
afterAll(() => server.stop());

async function ask(body: Readonly<Record<string, unknown>>): Promise<Response> {
  return fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: 'smollm2-135m-instruct',
      messages: [{ role: 'user', content: question }],
      temperature: 0,
      ...body,
    }),
  });
}

describe('the default model', () => {
  test('answers Paris, whole', async () => {
    const reply = (await (await ask({})).json()) as {
      choices: { message: { content: string }; finish_reason: string }[];
    };
    expect(reply.choices[0]?.message.content).toContain('Paris');
    expect(reply.choices[0]?.finish_reason).toBe('stop');
  });

  test('answers Paris, streamed', async () => {
    const text = await (await ask({ stream: true })).text();
    const pieces = text
      .split('\n')
      .filter((line) => line.startsWith('data: {'))
      .map(
        (line) =>
          (JSON.parse(line.slice(6)) as { choices: { delta: { content?: string } }[] }).choices[0]?.delta.content ?? '',
      );
    expect(pieces.join('')).toContain('Paris');
    expect(text.trimEnd().endsWith('data: [DONE]')).toBe(true);
  });
});

test('the page at / holds a chat', async () => {
  const path = '/usr/bin/chromium';
  expect(existsSync(path), 'Chromium is missing: apt-get install chromium').toBe(true);
  const browser: Browser = await chromium.launch({
    executablePath: path,
    args: ['--no-sandbox', '--disable-background-networking'],
  });
  try {
    const page = await browser.newPage();
    const faults: string[] = [];
    page.on('pageerror', (error) => faults.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') faults.push(message.text());
    });
    await page.goto(server.url);
    await page.getByLabel(/temperature/i).fill('0');
    await page.getByRole('textbox', { name: /message/i }).fill(question);
    await page.keyboard.press('Enter');
    await page.getByText('The capital of France is Paris.').first().waitFor({ timeout: 60_000 });
    expect(faults).toEqual([]);
  } finally {
    await browser.close();
  }
});

describe('the examples run', () => {
  const env = () => ({ ...process.env, OPENAI_BASE_URL: `${server.url}/v1` });
  test.each([
    ['openai client', process.execPath, 'examples/openai-client.ts'],
    ['AI SDK', process.execPath, 'examples/ai-sdk.ts'],
    ['curl', 'sh', 'examples/curl.sh'],
  ])('%s', async (_, command, file) => {
    const { stdout } = await execute(command, [join(root, file)], { env: env() });
    expect(stdout).toContain('Paris');
  });
});

describe('other ways to ask', () => {
  test('xllm chat --url', async () => {
    const program = runProgram(['chat', '--url', server.url, '--temperature', '0']);
    program.child.stdin?.end(`${question}\n/exit\n`);
    expect(await program.exited).toBe(0);
    expect(program.output()).toContain('Paris');
  });

  test('xllm run, with the prompt on standard input', async () => {
    const program = runProgram(['run']);
    program.child.stdin?.end(question);
    expect(await program.exited).toBe(0);
    expect(program.output()).toContain('Paris');
  });
});
