// Halves that know each other by token and certificate, and what is refused before it could do harm.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { makeCertificates, type TestCertificates } from '../support/certificates.ts';
import { complete, metric } from '../support/client.ts';
import { eventually } from '../support/server.ts';
import { clusterOf, Halves, untilSchedulable } from './halves.ts';

const halves = new Halves();
let folder: string;
let certificates: TestCertificates;
const file = (name: string, text: string) => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'xllm-test-secured-'));
  certificates = makeCertificates();
});
afterEach(() => halves.stopAll());
afterAll(() => {
  certificates.remove();
  rmSync(folder, { recursive: true });
});

const body = { prompt: [1, 2, 3], max_tokens: 3, temperature: 0, ignore_eos: true };

test('a prefill and a decode instance know each other as well, for calls and for blocks', async () => {
  const { cert, key, ca } = certificates;
  const tls = ['--tls-cert', cert, '--tls-key', key, '--tls-ca', ca];
  const common = [...tls, '--cluster-token-file', file('pair-token', 'secret\n'), '--listen', 'localhost:0'];
  const { url, registersAt } = await halves.service(...common);
  halves.engine('p', registersAt, ...common, '--role', 'prefill', '--kv-transport', 'tcp');
  halves.engine('d', registersAt, ...common, '--role', 'decode', '--kv-transport', 'tcp');
  await untilSchedulable(url, 'd', 'p');
  const prompt = Array.from({ length: 100 }, (_, i) => i + 1);
  for (let i = 0; i < 3; i++)
    expect((await complete(url, { ...body, prompt, max_tokens: 20 })).tokenIds).toHaveLength(20);
  await eventually(async () => (await metric(url, 'xllm:handoff_in_total')) >= 2, 'hand-overs');
  expect(await metric(url, 'xllm:handoff_pushed_bytes_total')).toBeGreaterThan(0);
});

test('with a token and TLS both ways; without either an engine stays outside', async () => {
  const { cert, key, ca } = certificates;
  const tls = ['--tls-cert', cert, '--tls-key', key, '--tls-ca', ca];
  const token = ['--cluster-token-file', file('token', 'secret\n')];
  const { url, registersAt } = await halves.service('--listen', 'localhost:0', ...tls, ...token);
  const listen = ['--listen', 'localhost:0'];
  const outsiders = [
    [halves.engine('no-token', registersAt, ...listen, ...tls), /cluster token is missing or wrong/],
    [
      halves.engine('wrong-token', registersAt, ...listen, ...tls, '--cluster-token-file', file('wrong', 'other')),
      /cluster token is missing or wrong/,
    ],
    [halves.engine('no-tls', registersAt, ...listen, ...token), /coordinator cannot be reached/],
  ] as const;
  for (const [{ output }, message] of outsiders)
    await eventually(() => message.test(output()), `${String(message)} is said`);
  const insider = halves.engine('insider', registersAt, ...listen, ...tls, ...token);
  await untilSchedulable(url, 'insider');
  expect((await complete(url, body)).tokenIds).toHaveLength(3);
  expect((await clusterOf(url)).instances.map(({ name }) => name)).toEqual(['insider']);
  // However long it tries, it says so once.
  for (const [{ output }] of outsiders) expect(output().match(/cannot be reached/g)).toHaveLength(1);
  expect(insider.output()).toBe('');
});

test.each([
  [['service', '--listen', '0.0.0.0:0'], /other machines.*--cluster-token-file/],
  [['engine', '--device', 'timed', '--listen', '0.0.0.0:0'], /other machines.*--cluster-token-file/],
  [['engine', '--device', 'timed', '--listen', '0.0.0.0:0', '--cluster-token-file', 'TOKEN'], /--advertise/],
  [['engine', '--device', 'timed', '--cluster-token-file', 'EMPTY'], /is empty/],
  [['engine', '--device', 'timed', '--cluster-token-file', '/nowhere'], /\/nowhere cannot be read/],
  [['engine', '--device', 'timed', '--tls-cert', 'TOKEN'], /--tls-cert and --tls-key/],
  [['engine', '--device', 'timed', '--coordinator', 'etcd://h:1', '--coordinator-user', 'u'], /password/],
  [['engine', '--device', 'timed', '--coordinator', 'etcd:/h:1'], /neither etcd:\/\/.* nor host:port/],
  [['engine', '--device', 'timed', '--coordinator', 'etcds://h:1/x'], /--coordinator-ca/],
  [['service', '--coordinator', '127.0.0.1:1'], /etcd:\/\//],
  [['service', '--served-model-name', 'x', 'timed', 'timed'], /renames one model/],
])('%j is refused with advice', async (args, message) => {
  const files: Record<string, string> = { TOKEN: file('token', 'secret'), EMPTY: file('empty', ' \n') };
  const program = halves.start(args.map((arg) => files[arg] ?? arg));
  expect(await program.exited).toBe(2);
  expect(program.output()).toMatch(message);
  expect(program.output()).not.toMatch(/\n\s+at /);
});

test('the token may come from the environment', async () => {
  const { url, registersAt } = await halves.service('--cluster-token-file', file('token', 'secret'));
  halves.start(['engine', '--name', 'e', '--device', 'timed', '--coordinator', registersAt], {
    XLLM_CLUSTER_TOKEN: 'secret',
  });
  await untilSchedulable(url, 'e');
});
