// Owns a real etcd in tests: on free ports, in a folder of its own, killed and started again at will.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from './server.ts';

export interface TestEtcd {
  /** `host:port` */
  readonly address: string;
  readonly folder: string;
  /** SIGKILL, as a crash or a lost machine. */
  readonly kill: () => Promise<void>;
  /** Again, with what it had written. */
  readonly start: () => Promise<void>;
  /** Kills it and removes everything. */
  readonly close: () => Promise<void>;
  /** Runs etcdctl with these arguments; its output. */
  readonly ctl: (...args: string[]) => string;
}

export interface TestEtcdOptions {
  /** PEM files: serve TLS. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca: string };
}

export async function startEtcd({ tls }: TestEtcdOptions = {}): Promise<TestEtcd> {
  const missing = ['etcd', 'etcdctl'].filter((name) => !isInstalled(name));
  if (missing.length > 0)
    throw new Error(`${missing.join(' and ')} not found: apt-get install -y etcd-server etcd-client`);
  const folder = mkdtempSync(join(tmpdir(), 'xllm-test-etcd-'));
  const [clientPort, peerPort] = [await freePort(), await freePort()];
  const scheme = tls ? 'https' : 'http';
  const clientUrl = `${scheme}://127.0.0.1:${clientPort}`;
  const peerUrl = `http://127.0.0.1:${peerPort}`;
  let child: ChildProcess | null = null;
  let output = '';
  const ctl = (...args: string[]) =>
    execFileSync('etcdctl', ['--endpoints', clientUrl, ...(tls ? ['--cacert', tls.ca] : []), ...args], {
      env: { ...process.env, ETCDCTL_API: '3' },
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  const start = async () => {
    child = spawn(
      'etcd',
      [
        ['--name', 'test', '--data-dir', join(folder, 'data'), '--logger', 'zap', '--log-level', 'error'],
        ['--listen-client-urls', clientUrl, '--advertise-client-urls', clientUrl],
        ['--listen-peer-urls', peerUrl, '--initial-advertise-peer-urls', peerUrl],
        ['--initial-cluster', `test=${peerUrl}`, '--unsafe-no-fsync'],
        tls ? ['--cert-file', tls.cert, '--key-file', tls.key] : [],
      ].flat(),
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (chunk: Buffer) => {
        output += chunk.toString();
      });
    await eventually(() => isHealthy(ctl), `etcd answers; it printed: ${output}`);
  };
  const kill = async () => {
    const dying = child;
    child = null;
    if (!dying || dying.exitCode !== null) return;
    const gone = new Promise((resolve) => dying.once('exit', resolve));
    dying.kill('SIGKILL');
    await gone;
  };
  await start();
  return {
    address: `127.0.0.1:${clientPort}`,
    folder,
    kill,
    start,
    ctl,
    close: async () => {
      await kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function isHealthy(ctl: (...args: string[]) => string): boolean {
  try {
    ctl('endpoint', 'health');
    return true;
  } catch (error) {
    // With users switched on the question itself is refused, which is an answer.
    return /permission denied|user name is empty/.test(String(error));
  }
}

function isInstalled(name: string): boolean {
  try {
    execFileSync('which', [name], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}
