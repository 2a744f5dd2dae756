// Owns `xllm status`: the cluster behind a server, as a table.
import { XllmError } from '../common/errors.ts';
import { type ClusterReply, clusterReply } from '../service/http/cluster/route.ts';
import { callJson } from './bench/http-json.ts';
import type { BenchIo } from './bench/io.ts';
import { formatTable } from './bench/table.ts';
import { apiUrl, authorisation } from './bench/target.ts';
import type { OptionsOf } from './config/options.ts';

const TIMEOUT_MS = 10_000;

/** Throws XllmError `usage` when no server of this kind answers. Resolves with the exit code: 1 while it is not ready. */
export async function status({ url, json }: OptionsOf<'status'>, io: BenchIo): Promise<number> {
  const cluster = await fetchCluster(url, io);
  io.stdout.write(json ? `${JSON.stringify(cluster, null, 2)}\n` : formatCluster(cluster, io.stdout.isTTY === true));
  return cluster.ready ? 0 : 1;
}

export async function fetchCluster(base: string, io: BenchIo): Promise<ClusterReply> {
  const url = apiUrl(base, '/v1/cluster');
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const reply = await callJson(url, { headers: authorisation(io.env), signal }).catch((error: unknown) => {
    throw new XllmError('usage', `no server answers at ${url.origin}: ${String(error)}`, { cause: error });
  });
  if (reply.status === 401) throw new XllmError('usage', `${url.origin} wants its API key in XLLM_API_KEY`);
  const parsed = reply.status === 200 ? clusterReply.safeParse(reply.json()) : null;
  if (!parsed?.success) throw new XllmError('usage', `${url.href} describes no cluster (HTTP ${reply.status})`);
  return parsed.data;
}

function formatCluster(cluster: ClusterReply, isStyled: boolean): string {
  const { replica, replicas, writer, ready, models, instances, recoveries, migrations } = cluster;
  const lines = [
    `${ready ? 'ready' : 'not ready'}: ${models.length > 0 ? models.join(', ') : 'no model can be served'}`,
    ...(replicas.length > 1
      ? [`replicas: ${replicas.map(({ name, url }) => `${name} at ${url}`).join(', ')}; asked: ${replica}`]
      : []),
    ...(replicas.length > 1 ? [`writer: ${writer ?? 'none'}`] : []),
    ...(recoveries + migrations > 0 ? [`requests moved: ${recoveries} recovered, ${migrations} migrated`] : []),
  ];
  if (instances.length === 0) return `${lines.join('\n')}\nNo instance is known.\n`;
  const rows = instances.map((instance) => [
    instance.name,
    instance.model,
    instance.roles.join(','),
    stateOf(instance),
    `${instance.running}+${instance.waiting}`,
    `${instance.queued_tokens}`,
    `${instance.kv_blocks_used}/${instance.kv_blocks} (${percent(instance.kv_blocks_used, instance.kv_blocks)})`,
    `${instance.cached_blocks}`,
    instance.decode_step_ms === null ? '-' : `${instance.decode_step_ms.toFixed(1)} ms`,
    `${(instance.silent_ms / 1000).toFixed(1)} s`,
    instance.address,
  ]);
  const heads = ['instance', 'model', 'role', 'state', 'run+wait', 'queued', 'KV blocks', 'cached', 'step', 'heard'];
  return `${lines.join('\n')}\n\n${formatTable([...heads, 'address'], rows, isStyled)}`;
}

function stateOf({ state, connected, draining }: ClusterReply['instances'][number]): string {
  if (draining) return `${state}, draining`;
  return connected ? state : `${state}, not connected`;
}

function percent(part: number, whole: number): string {
  return whole === 0 ? '-' : `${Math.round((100 * part) / whole)} %`;
}
