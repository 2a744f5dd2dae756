// The coordinator's conformance suite on both implementations, and what only etcd has: namespaces, users, TLS.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { ContractServer } from '../../src/contract/grpc.ts';
import { silentEvents } from '../../src/coordination/coordinator.ts';
import { EmbeddedCoordinator } from '../../src/coordination/embedded.ts';
import { EtcdCoordinator } from '../../src/coordination/etcd.ts';
import type { EtcdOptions } from '../../src/coordination/etcd-calls.ts';
import { RemoteCoordinator } from '../../src/coordination/remote.ts';
import { startEtcd, type TestEtcdOptions } from '../support/etcd.ts';
import { makeCertificates } from '../support/certificates.ts';
import { coordinatorSuite } from './coordinator-suite.ts';

coordinatorSuite('embedded, over the contract', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'xllm-test-coordinator-'));
  const address = `unix:${folder}/c.sock`;
  let server = new ContractServer();
  let coordinator = new EmbeddedCoordinator();
  const start = async () => {
    server = new ContractServer();
    coordinator = new EmbeddedCoordinator();
    coordinator.serve(server);
    await server.listen(address);
  };
  const kill = async () => {
    server.close();
    await coordinator.close();
    rmSync(join(folder, 'c.sock'), { force: true });
  };
  await start();
  return {
    connect: (events) => new RemoteCoordinator(address, {}, events),
    childArgs: ['embedded', address, ''],
    kill,
    restart: start,
    close: async () => {
      await kill();
      rmSync(folder, { recursive: true });
    },
  };
});

coordinatorSuite('etcd', async () => {
  const etcd = await startEtcd();
  const options: EtcdOptions = { hosts: [etcd.address], namespace: '/suite' };
  return {
    connect: (events) => new EtcdCoordinator(options, events),
    childArgs: ['etcd', etcd.address, '/suite'],
    kill: etcd.kill,
    restart: etcd.start,
    close: etcd.close,
  };
});

const bytes = (text: string) => new TextEncoder().encode(text);

async function etcdFor(options: TestEtcdOptions = {}) {
  const etcd = await startEtcd(options);
  onTestFinished(etcd.close);
  const connect = (more: Partial<EtcdOptions>) => {
    const client = new EtcdCoordinator({ hosts: [etcd.address], namespace: '', ...more }, silentEvents);
    onTestFinished(() => client.close());
    return client;
  };
  return { etcd, connect };
}

test('namespaces keep clusters on one etcd apart', async () => {
  const { etcd, connect } = await etcdFor();
  const [a, b] = [connect({ namespace: '/a' }), connect({ namespace: '/b' })];
  await a.compareAndSet('/k', bytes('of a'), []);
  expect(await b.get('/k')).toBeNull();
  await b.compareAndSet('/k', bytes('of b'), []);
  expect(etcd.ctl('get', '--prefix', '/').trim().split('\n')).toEqual(['/a/k', 'of a', '/b/k', 'of b']);
});

test('etcd with users lets in who has the password, also after its restart', async () => {
  const { etcd, connect } = await etcdFor();
  for (const args of [
    ['user', 'add', 'root', '--new-user-password=top'],
    ['user', 'grant-role', 'root', 'root'],
    ['role', 'add', 'xllm'],
    ['role', 'grant-permission', 'xllm', '--prefix=true', 'readwrite', '/xllm'],
    ['user', 'add', 'xllm', '--new-user-password=secret'],
    ['user', 'grant-role', 'xllm', 'xllm'],
    ['auth', 'enable'],
  ])
    etcd.ctl(...args);
  const user = { name: 'xllm', password: 'secret' };
  const client = connect({ namespace: '/xllm', user });
  client.hold('/held', bytes('1'), 2_000);
  const seen: string[] = [];
  client.watch('/', (event) => seen.push(event.kind));
  await expect.poll(() => seen, { timeout: 60_000 }).toContain('put');
  await expect(connect({ namespace: '/other', user }).get('/k')).rejects.toThrow(/permission denied/);
  await expect(connect({ namespace: '/xllm' }).get('/k')).rejects.toThrow(/user name is empty|permission/);
  await expect(connect({ namespace: '/xllm', user: { ...user, password: 'wrong' } }).get('/k')).rejects.toThrow(
    /authentication failed/,
  );
  await etcd.kill();
  await etcd.start();
  seen.length = 0;
  await expect.poll(() => seen, { timeout: 60_000 }).toContain('snapshot');
  await expect
    .poll(() => client.compareAndSet('/free', bytes('1'), []), { timeout: 60_000 })
    .toEqual(expect.any(Number));
  // Longer than the lease: it is refreshed although the restart has forgotten the login.
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  expect(await client.get('/held')).not.toBeNull();
});

test('etcd over TLS is known by its authority, and refused without', async () => {
  const certificates = makeCertificates();
  onTestFinished(certificates.remove);
  const { connect } = await etcdFor({ tls: certificates });
  const client = connect({ tls: { ca: readFileSync(certificates.ca) } });
  expect(await client.compareAndSet('/k', bytes('1'), [])).toEqual(expect.any(Number));
  const other = makeCertificates();
  onTestFinished(other.remove);
  await expect(connect({ tls: { ca: readFileSync(other.ca) } }).get('/k')).rejects.toThrow();
});
