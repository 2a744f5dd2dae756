// The front that OpenVINO GenAI is measured through, before a stand-in for its pipeline.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/cli/bench/clock.ts';
import { callJson } from '../../src/cli/bench/http-json.ts';
import { openvinoProduct } from '../../src/cli/bench/peers/openvino.ts';
import type { PreparedPeer } from '../../src/cli/bench/peers/peer.ts';
import { type RunningServer, startServer } from '../../src/cli/bench/peers/server.ts';
import { StreamClient } from '../../src/cli/bench/stream-client.ts';
import { endpointUrl, firstModel } from '../../src/cli/bench/target.ts';

const never = new AbortController().signal;
const stubs = join(import.meta.dirname, '../fixtures/openvino-stub');
let peer: PreparedPeer;
let server: RunningServer;

beforeAll(async () => {
  const [system] = openvinoProduct.systems('Q4_0');
  const prepared = await system!.prepare({ modelPath: '/m.gguf', cacheFolder: '/c', signal: never, log: () => {} });
  // The system's Python and stand-ins; flags and script are the real ones.
  const command: PreparedPeer['command'] = (launch) => ({
    ...prepared.command(launch),
    file: 'python3',
    env: { PYTHONPATH: stubs, PYTHONDONTWRITEBYTECODE: '1' },
  });
  peer = { ...prepared, command };
  server = await startServer(peer, { shape: 'batch', threads: 2 }, never);
});
afterAll(() => server[Symbol.asyncDispose]());

function client(): StreamClient {
  const url = endpointUrl(server.url, 'completions');
  return new StreamClient({ url, headers: {}, isKeepAlive: true, timeoutMs: 60_000 }, systemClock);
}
const body = (prompt: readonly number[], maxTokens: number) =>
  JSON.stringify({ prompt, max_tokens: maxTokens, stream: true, ignore_eos: true });

describe('the OpenVINO front', () => {
  it('names its model, and answers with ids', async () => {
    expect(await firstModel(server.url, {}, never)).toBe('openvino');
    expect(await peer.greedyTokens(server.url, [5, 7], 3, never)).toEqual([8, 9, 10]);
  });

  it('streams a token per chunk to many at once, on connections that live on', async () => {
    const one = client();
    for (let wave = 0; wave < 2; wave++) {
      const lengths = Array.from({ length: 16 }, (_, i) => i + 1);
      const records = await Promise.all(lengths.map((length) => one.send(body([length], length), 1, 0, never)));
      expect(records.map(({ outcome, outputTokens, chunkMs }) => [outcome, outputTokens, chunkMs.length])).toEqual(
        lengths.map((length) => ['ok', length, length]),
      );
    }
    one.close();
  });

  it('says when the pipeline refuses', async () => {
    const reply = await callJson(endpointUrl(server.url, 'completions'), { body: { prompt: [-1], max_tokens: 2 } });
    expect(reply.status).toBe(500);
    expect(reply.text).toContain('refused');
  });

  it('goes on when clients vanish', async () => {
    const one = client();
    const gone = new AbortController();
    const record = await one.send(body([1], 1_000_000), 1, 0, gone.signal, () => gone.abort());
    expect(record.outcome).toBe('aborted');
    expect(await peer.greedyTokens(server.url, [1], 2, never)).toEqual([2, 3]);
    one.close();
  });
});

it('is given the model, its cache and its threads', async () => {
  const { file, args, env } = peer.command({ shape: 'single', port: 0, threads: 3 });
  const child: ChildProcess = spawn(file, args, { env: { ...process.env, ...env } });
  const [line] = (await once(createInterface(child.stdout!), 'line')) as [string];
  child.kill();
  await once(child, 'exit');
  expect(line).toContain("/m.gguf 4 32 CPU {'INFERENCE_NUM_THREADS': 3}");
});
