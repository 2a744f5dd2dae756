import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { startFakeServer } from '../../../../test/bench/fake-server.ts';
import { llamaCpp } from './llama-cpp.ts';

const cacheFolder = mkdtempSync(join(tmpdir(), 'xllm-llama-'));
afterAll(() => rmSync(cacheFolder, { recursive: true }));
const never = new AbortController().signal;

/** As if it had been built before: nothing is fetched or compiled. */
function prepare() {
  const folder = join(cacheFolder, 'peers', 'llama.cpp');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'build.json'), '{"version":"11434.0.0"}');
  return llamaCpp(null).prepare({ modelPath: '/m.gguf', cacheFolder, signal: never, log: () => {} });
}

describe('llama.cpp as a peer', () => {
  it('gets two threads, flash attention, and slots by the shape of the load', async () => {
    const { command, version, isKeepAlive } = await prepare();
    const line = (shape: 'single' | 'batch') => command({ shape, port: 81, threads: 2 }).args.join(' ');
    const common = '-m /m.gguf --host 127.0.0.1 --port 81 -t 2 -tb 2 -fa on -b 2048 -ub 512 --cache-ram 0';
    expect(line('single')).toBe(`${common} -np 1 -c 4096`);
    expect(line('batch')).toBe(`${common} -np 32 -c 40960`);
    expect([version, isKeepAlive]).toEqual(['b11434', false]);
  });

  it('is asked for ids through its own API', async () => {
    await using server = await startFakeServer((_, response) => void response.end('{"tokens":[4,5]}'));
    expect(await (await prepare()).greedyTokens(server.url, [1, 2], 2, never)).toEqual([4, 5]);
    expect(server.requests[0]).toMatchObject({
      path: '/completion',
      body: { prompt: [1, 2], n_predict: 2, temperature: 0, return_tokens: true, cache_prompt: false },
    });
  });
});
