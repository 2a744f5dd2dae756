// What a server takes of memory after it has worked: engine at most weights + KV pool + 150 MB, service at most 400 MB.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { complete } from '../support/client.ts';
import { memoryOf } from '../support/memory.ts';
import { startServer, type TestServer } from '../support/server.ts';

const KV_MIB = 512;
let server: TestServer;
beforeAll(async () => {
  server = await startServer(['--kv-cache-memory', `${KV_MIB}MiB`, '--log-level', 'warn']);
});
afterAll(() => server.stop());

test('engine and service keep within their bounds', async () => {
  const ask = (seed: number) =>
    complete(server.url, {
      prompt: Array.from({ length: 200 }, (_, i) => 100 + ((i * 37 + seed * 1_013) % 40_000)),
      max_tokens: 32,
      temperature: 1,
      seed,
      ignore_eos: true,
    });
  for (let wave = 0; wave < 2; wave++) {
    const answers = await Promise.all(Array.from({ length: 16 }, (_, i) => ask(100 * wave + i)));
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
  }
  const weightBytes = 1e6 * Number(/weights +(\d+) MB/.exec(server.output())?.[1]);
  expect(weightBytes).toBeGreaterThan(50e6);
  const engine = memoryOf(server.enginePid());
  const service = memoryOf(server.child.pid ?? -1);
  console.log(`engine ${JSON.stringify(engine)}, service ${JSON.stringify(service)}, weights ${weightBytes}`);
  // Of the KV pool counts what has been written to.
  expect(engine.sharedBytes).toBeLessThan(KV_MIB * 2 ** 20);
  expect(engine.pssBytes - engine.sharedBytes).toBeLessThan(weightBytes + 150e6);
  expect(service.pssBytes).toBeLessThan(400e6);
});
