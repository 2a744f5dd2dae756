// The two halves started apart, over TCP: an engine registers with a service, dies, and its successor takes over.
import { afterEach, expect, test } from 'vitest';
import { complete } from '../support/client.ts';
import { eventually, type RunningProgram, runProgram } from '../support/server.ts';

const programs: RunningProgram[] = [];
const start = (...args: string[]) => {
  const program = runProgram(args);
  programs.push(program);
  return program;
};

afterEach(async () => {
  for (const { child, exited } of programs.splice(0)) {
    child.kill('SIGKILL');
    await exited;
  }
});

test('a service serves what an engine computes, also the next one', async () => {
  const service = start('service', '--port', '0', '--listen', '127.0.0.1:0');
  const [url, coordinator] = await eventually(() => {
    const match = /at (http:\/\/\S+); engines register at (\S+)/.exec(service.output());
    return match?.[1] && match[2] ? [match[1], match[2]] : null;
  }, 'the service listens');
  expect((await fetch(`${url}/ready`)).status).toBe(503);
  const engine = (name: string) =>
    start('engine', '--coordinator', coordinator, '--name', name, '--max-model-len', '512', '--threads', '1');
  const isReady = async () => (await fetch(`${url}/ready`)).ok;
  const ask = () => complete(url, { prompt: [1, 2, 3, 4], max_tokens: 4, temperature: 0, ignore_eos: true });

  const first = engine('one');
  await eventually(isReady, 'the first engine serves');
  const answer = await ask();
  expect(answer.tokenIds).toHaveLength(4);
  first.child.kill('SIGTERM');
  expect(await first.exited).toBe(0);
  await eventually(async () => !(await isReady()), 'the service knows that it is gone');
  expect((await ask()).error?.code).toBe('engine_unavailable');

  engine('two');
  await eventually(isReady, 'the second engine serves');
  expect((await ask()).tokenIds).toEqual(answer.tokenIds);
  service.child.kill('SIGTERM');
  expect(await service.exited).toBe(0);
});
