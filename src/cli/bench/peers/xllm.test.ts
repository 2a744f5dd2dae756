import { describe, expect, it } from 'vitest';
import { startFakeServer } from '../../../../test/bench/fake-server.ts';
import { completeGreedily, xllm } from './xllm.ts';

const never = new AbortController().signal;
const prepare = (...extraArgs: string[]) =>
  xllm('ours', extraArgs).prepare({ modelPath: '/m.gguf', cacheFolder: '', signal: never, log: () => {} });

describe('xllm as a system', () => {
  it('is started by its own entry with the threads and flags given', async () => {
    const { command, notes } = await prepare('--kernels', 'avx2');
    const { file, args } = command({ shape: 'single', port: 81, threads: 2 });
    expect(file).toBe(process.execPath);
    expect(args[0]).toMatch(/bin\/xllm\.js$/);
    expect(args.slice(1).join(' ')).toBe(
      'serve /m.gguf --host 127.0.0.1 --port 81 --threads 2 --max-model-len 4096 --log-level error --kernels avx2',
    );
    expect(notes).toEqual(['started with --kernels avx2']);
  });

  it('asks for ids, and reads step totals from its metrics', async () => {
    await using server = await startFakeServer(({ path }, response) => {
      if (path === '/metrics')
        response.end(
          'xllm:engine_steps_total{engine="0"} 40\nxllm:engine_event_loop_cpu_seconds_total{engine="0"} 0.004\n',
        );
      else response.end(JSON.stringify({ choices: [{ token_ids: [5, 6], logprobs: { top_logprobs: [] } }] }));
    });
    const peer = await prepare();
    expect(await peer.stepTotals(server.url, never)).toEqual({ steps: 40, eventLoopCpuUs: 4000 });
    expect(await peer.greedyTokens(server.url, [1, 2], 2, never)).toEqual([5, 6]);
    expect(server.requests[1]?.body).toMatchObject({
      prompt: [1, 2],
      max_tokens: 2,
      temperature: 0,
      ignore_eos: false,
      return_token_ids: true,
      return_tokens_as_token_ids: true,
    });
  });

  it('names what the server answered when it refuses', async () => {
    await using server = await startFakeServer((_, response) => void response.writeHead(400).end('too long'));
    await expect(completeGreedily(server.url, [1], 1, true, never)).rejects.toThrow(/400: too long/);
  });
});
