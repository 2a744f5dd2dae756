// An engine that answers but finishes no step, started apart from the service: found out by its progress, and left.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { eventually } from '../support/server.ts';
import { lifeOf } from './cluster.ts';
import { Halves } from './halves.ts';
import { ask, contentOf } from './requests.ts';

const halves = new Halves();
const folder = mkdtempSync(join(tmpdir(), 'xllm-test-hang-'));
const start = (...args: string[]) => halves.start(args);

afterEach(async () => {
  await halves.stopAll();
  rmSync(folder, { recursive: true, force: true });
});

test('requests of a hung engine go on elsewhere, and new ones avoid it', async () => {
  const hangs = join(folder, 'hangs.json');
  const price = { tokenMs: 0, seqMs: 0, contextMs: 0, pairMs: 0 };
  writeFileSync(hangs, JSON.stringify({ name: 'hangs', stepTime: { constantMs: 1e8, ...price } }));
  const options = ['--stall-timeout-s', '1', '--routing-policy', 'round-robin', '--log-level', 'info'];
  const service = start('service', 'timed', '--port', '0', '--listen', '127.0.0.1:0', ...options);
  const [url, coordinator] = await eventually(() => {
    const match = /at (http:\/\/\S+); engines register at (\S+)/.exec(service.output());
    return match?.[1] && match[2] ? ([match[1], match[2]] as const) : null;
  }, 'the service listens');
  const engine = (name: string, ...more: string[]) =>
    start('engine', '--device', 'timed', '--coordinator', coordinator, '--name', name, ...more);
  engine('hung', '--profile', hangs);
  engine('well', '--time-scale', '0.1');
  await eventually(
    () => /engine hung serves/.test(service.output()) && /engine well serves/.test(service.output()),
    'both serve',
  );
  const body = { prompt: [1, 2, 3], max_tokens: 5, ignore_eos: true, temperature: 0 };
  const answers = await Promise.all(['a', 'b', 'c', 'd'].map((id) => ask(url, body, { id })));
  for (const answer of answers) expect(contentOf(answer)).toEqual(contentOf(answers[0]!));
  expect(answers[0]?.choices[0]?.tokenIds).toHaveLength(5);
  const lives = await Promise.all(['a', 'b', 'c', 'd'].map((id) => lifeOf(url, id)));
  const lost = lives.flatMap((life) => life?.prompts[0]?.events.filter(({ event }) => event === 'lost') ?? []);
  expect(lost.length).toBeGreaterThan(0);
  expect(lost.every(({ instance }) => instance === 'hung')).toBe(true);
  expect(service.output()).toMatch(/engine hung is suspect: it has work but has finished no step/);
  // It stays suspect: nothing is sent there any more.
  for (const id of ['e', 'f']) {
    await ask(url, body, { id });
    expect((await lifeOf(url, id))?.prompts[0]?.events[0]?.instance).toBe('well');
  }
});
