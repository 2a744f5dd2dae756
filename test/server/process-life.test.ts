// Processes really killed: the engine at rest and under load, the service, and the orderly ways to stop.
import { readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { afterEach, expect, test } from 'vitest';
import { complete, stream } from '../support/client.ts';
import { childrenOf, eventually, isAlive, runProgram, startServer, type TestServer } from '../support/server.ts';

let server: TestServer | null = null;
const start = async (args: readonly string[] = []) => {
  server = await startServer(['--max-model-len', '1024', ...args]);
  return server;
};
afterEach(async () => {
  await server?.stop();
  server = null;
});
const isReady = async (url: string) => (await fetch(`${url}/ready`)).ok;
const ask = { prompt: [1, 2, 3, 4], max_tokens: 4, temperature: 0, ignore_eos: true };

test('an engine killed at rest is restarted and the next request succeeds', async () => {
  const { url, enginePid } = await start();
  const before = await complete(url, ask);
  const pid = enginePid();
  process.kill(pid, 'SIGKILL');
  await eventually(async () => !(await isReady(url)), '/ready says that the engine is gone');
  await eventually(() => isReady(url), '/ready says that it is back');
  expect(enginePid()).not.toBe(pid);
  expect((await complete(url, ask)).tokenIds).toEqual(before.tokenIds);
});

test('an engine killed under load fails its requests at once with a retryable error', async () => {
  const { url, enginePid } = await start();
  const long = { prompt: [5, 6, 7], max_tokens: 900, temperature: 0, ignore_eos: true };
  let numStarted = 0;
  const streams = Array.from({ length: 8 }, () =>
    stream(url, long, (n) => {
      if (n === 1) numStarted++;
      return true;
    }),
  );
  const whole = complete(url, long);
  await eventually(() => numStarted === 8, 'every stream has begun');
  process.kill(enginePid(), 'SIGKILL');
  for (const answer of await Promise.all(streams)) expect(answer.error?.code).toBe('engine_lost');
  const failed = await whole;
  expect(failed.status).toBe(503);
  expect(failed.error?.code).toBe('engine_lost');
  await eventually(async () => (await complete(url, ask)).status === 200, 'the next request succeeds');
});

test('a stopped engine (SIGSTOP) is found out and replaced', async () => {
  const { url, enginePid } = await start();
  const pid = enginePid();
  process.kill(pid, 'SIGSTOP');
  await eventually(() => !isAlive(pid), 'the hung engine is killed');
  await eventually(() => isReady(url), 'its successor serves');
}, 180_000);

test('a service killed with -9 leaves no engine and no folder behind', async () => {
  const { child, enginePid, exited } = await start();
  const pid = enginePid();
  const folders = () =>
    readdirSync(tmpdir()).filter((name) => name.startsWith('xllm-') && !name.startsWith('xllm-test'));
  const before = folders();
  child.kill('SIGKILL');
  await exited;
  await eventually(() => !isAlive(pid), 'the engine ends with its service');
  await eventually(() => folders().length < before.length, 'its folder is removed');
});

test('SIGTERM drains: what runs ends whole, then both processes are gone', async () => {
  const { url, child, exited, output, enginePid } = await start(['--drain-timeout-s', '600']);
  const pid = enginePid();
  let hasBegun = false;
  const running = stream(url, { prompt: [9, 8, 7], max_tokens: 200, temperature: 0, ignore_eos: true }, () => {
    hasBegun = true;
    return true;
  });
  await eventually(() => hasBegun, 'the stream has begun');
  child.kill('SIGTERM');
  await eventually(() => /draining 1 request/.test(output()), 'the drain is announced');
  const answer = await running;
  expect(answer.tokenIds).toHaveLength(200);
  expect(answer.sawDone).toBe(true);
  expect(await exited).toBe(0);
  expect(isAlive(pid)).toBe(false);
  server = null;
});

test('a second Ctrl-C stops at once', async () => {
  const { url, child, exited, output, enginePid } = await start();
  const pid = enginePid();
  let hasBegun = false;
  const running = stream(url, { prompt: [9, 8, 7], max_tokens: 1000, temperature: 0, ignore_eos: true }, () => {
    hasBegun = true;
    return true;
  }).catch(() => null);
  await eventually(() => hasBegun, 'the stream has begun');
  child.kill('SIGINT');
  await eventually(() => /draining 1 request/.test(output()), 'the drain is announced');
  child.kill('SIGINT');
  await running;
  expect(await exited).toBe(130);
  await eventually(() => !isAlive(pid), 'the engine is gone too');
  server = null;
});

test('a taken port says what to do, and leaves nothing running', async () => {
  const blocker = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => blocker.once('listening', resolve));
  const { port } = blocker.address() as { port: number };
  const program = runProgram(['serve', '--port', String(port)]);
  expect(await program.exited).toBe(1);
  expect(program.output()).toMatch(new RegExp(`:${port} is taken.*--port`));
  expect(childrenOf(program.child.pid ?? -1)).toEqual([]);
  blocker.close();
});

test.each([
  [['serve', '--prot', '1'], 2, /--port/],
  [['serve', '--max-num-seqs', 'many'], 2, /--max-num-seqs.*number/],
  [['sreve'], 2, /serve/],
  [['serve', './no-such-file.gguf'], 1, /no-such-file\.gguf/],
  [['serve', 'no-such-model'], 1, /no-such-model/],
])('%j is refused with advice', async (args, code, message) => {
  const program = runProgram(args);
  expect(await program.exited).toBe(code);
  expect(program.output()).toMatch(message);
  expect(program.output()).not.toMatch(/\n\s+at /);
});
