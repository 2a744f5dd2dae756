// Owns `xllm drain`: asks a server to let an instance leave, and follows it until it has.
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { type ErrorCode, errorCatalogue, XllmError } from '../common/errors.ts';
import type { ClusterReply } from '../service/http/cluster/route.ts';
import { callJson } from './bench/http-json.ts';
import type { BenchIo } from './bench/io.ts';
import { apiUrl, authorisation } from './bench/target.ts';
import type { OptionsOf } from './config/options.ts';
import { fetchCluster } from './status.ts';

const CALL_TIMEOUT_MS = 20_000;
const POLL_MS = 250;

const errorReply = z.object({ error: z.object({ message: z.string(), code: z.string() }) });

/**
 * Resolves with the exit code: 1 if the instance is still there after the timeout. Throws XllmError when no server of
 * this kind answers, or with what it says against it.
 */
export async function drain(options: OptionsOf<'drain'>, [name]: readonly string[], io: BenchIo): Promise<number> {
  const { url, force, timeoutS } = options;
  if (name === undefined) throw new XllmError('usage', 'which instance? xllm status lists them');
  const before = find(await fetchCluster(url, io), name);
  await ask(url, { instance: name, force }, io);
  const deadlineMs = performance.now() + timeoutS * 1_000;
  let told = '';
  for (;;) {
    const instance = find(await fetchCluster(url, io), name);
    if (!instance || instance.incarnation !== before?.incarnation) break;
    const line = `${name} drains: ${instance.running} running, ${instance.waiting} waiting\n`;
    if (line !== told) io.stderr.write(line);
    told = line;
    if (io.signal.aborted || performance.now() > deadlineMs) {
      io.stderr.write(`${name} is still there; it leaves once nothing runs there. Look again with xllm status.\n`);
      return 1;
    }
    await sleep(POLL_MS);
  }
  io.stdout.write(`${name} has left\n`);
  return 0;
}

function find({ instances }: ClusterReply, wanted: string): ClusterReply['instances'][number] | undefined {
  return instances.find(({ name }) => name === wanted);
}

async function ask(
  base: string,
  body: { readonly instance: string; readonly force: boolean },
  io: BenchIo,
): Promise<void> {
  const url = apiUrl(base, '/v1/cluster/drain');
  const signal = AbortSignal.timeout(CALL_TIMEOUT_MS);
  const reply = await callJson(url, { body, headers: authorisation(io.env), signal });
  if (reply.status === 200) return;
  const { data } = errorReply.safeParse(reply.json());
  if (!data || !isCode(data.error.code)) throw new XllmError('usage', `${url.href} answers with HTTP ${reply.status}`);
  throw new XllmError(data.error.code, data.error.message);
}

function isCode(code: string): code is ErrorCode {
  return Object.hasOwn(errorCatalogue, code);
}
