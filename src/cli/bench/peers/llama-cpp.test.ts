import { describe, expect, it } from 'vitest';
import { startFakeServer } from '../../../../test/bench/fake-server.ts';
import { llamaCpp, llamaCppProduct } from './llama-cpp.ts';

const never = new AbortController().signal;

function prepare() {
  return llamaCpp(null).prepare({ modelPath: '/m.gguf', cacheFolder: '/cache', signal: never, log: () => {} });
}

describe('llama.cpp as a peer', () => {
  it('gets two threads, flash attention, and slots by the shape of the load', async () => {
    const { command, version, isKeepAlive } = await prepare();
    expect(command({ shape: 'single', port: 81, threads: 2 }).file).toBe(
      '/cache/peers/llama.cpp/build/bin/llama-server',
    );
    const line = (shape: 'single' | 'batch') => command({ shape, port: 81, threads: 2 }).args.join(' ');
    const common = '-m /m.gguf --host 127.0.0.1 --port 81 -t 2 -tb 2 -fa on -b 2048 -ub 512 --cache-ram 0';
    expect(line('single')).toBe(`${common} -np 1 -c 4096`);
    expect(line('batch')).toBe(`${common} -np 32 -c 40960`);
    expect([version, isKeepAlive]).toEqual(['b11434', false]);
  });

  it('gets weights that it has no fast products for in another form, too', () => {
    expect(llamaCppProduct.systems('Q4_1').map(({ name }) => name)).toEqual(['llama.cpp', 'llama.cpp:Q4_0']);
    expect(llamaCppProduct.systems('Q8_0').map(({ name }) => name)).toEqual(['llama.cpp']);
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
