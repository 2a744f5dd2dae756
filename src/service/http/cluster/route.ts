// Owns GET /v1/cluster: replicas, instances, their health and their load, as this replica sees them.
import { z } from 'zod';
import { predictStepMs } from '../../../common/step-time.ts';
import type { InstanceView } from '../../registry/cluster-view.ts';
import type { HttpContext } from '../context.ts';

const instanceReply = z
  .object({
    name: z.string(),
    incarnation: z.string(),
    address: z.string(),
    build: z.string(),
    model: z.string(),
    roles: z.array(z.string()),
    state: z.enum(['ACTIVE', 'LEASE_LOST', 'SUSPECT']),
    schedulable: z.boolean().describe('Whether new requests may go there.'),
    connected: z.boolean(),
    draining: z.boolean(),
    silent_ms: z.number().describe('Since it was last heard of.'),
    stalled_ms: z.number().describe('Since its last step while it has work.'),
    in_flight: z.int().describe('Requests of this replica that run there.'),
    running: z.int(),
    waiting: z.int(),
    queued_tokens: z.int().describe('Prompt tokens not computed yet.'),
    context_tokens: z.int().describe('Tokens of the running sequences.'),
    kv_blocks: z.int(),
    kv_blocks_used: z.int(),
    cached_blocks: z.int().describe('Blocks that its prefix cache holds, in the index of this replica.'),
    block_tokens: z.int(),
    max_model_len: z.int(),
    max_num_seqs: z.int(),
    max_ttft_ms: z.number().describe('Largest of late; 0: no token came.'),
    max_token_gap_ms: z.number(),
    decode_step_ms: z.number().nullable().describe('Predicted for its present batch; null: nothing is known.'),
    numerics_id: z.string(),
    kv_layout: z.string(),
  })
  .meta({ id: 'ClusterInstance' });

export const clusterReply = z
  .object({
    object: z.literal('cluster'),
    replica: z.string().describe('The service process that answers.'),
    replicas: z.array(z.object({ name: z.string(), url: z.string(), build: z.string() })),
    writer: z.string().nullable().describe('The replica that writes for all.'),
    ready: z.boolean(),
    models: z.array(z.string()),
    instances: z.array(instanceReply),
    recoveries: z.int().describe('Requests that this replica brought elsewhere after their instance had failed.'),
    migrations: z.int().describe('Requests that this replica brought elsewhere from an instance that lived.'),
  })
  .meta({ id: 'Cluster' });

export type ClusterReply = z.output<typeof clusterReply>;

export function describeCluster({ engine, routing, models, group }: HttpContext): ClusterReply {
  const { replica, replicas, writer } = group();
  return {
    object: 'cluster',
    replica,
    replicas: [...replicas],
    writer,
    ready: models.isReady,
    models: [...models.names],
    instances: engine.view().instances.map(instanceOf),
    recoveries: routing?.figures.numRecoveries ?? 0,
    migrations: routing?.figures.numMigrations ?? 0,
  };
}

function instanceOf(instance: InstanceView): z.output<typeof instanceReply> {
  const { load, capacity, latency, stepTime } = instance;
  const numSeqs = Math.max(1, load.numRunning);
  const shape = {
    numTokens: numSeqs,
    numSeqs,
    contextTokens: load.numContextTokens,
    attendedPairs: load.numContextTokens,
  };
  return {
    name: instance.name,
    incarnation: instance.incarnation,
    address: instance.address,
    build: instance.build,
    model: instance.model,
    roles: [...instance.roles],
    state: instance.state,
    schedulable: instance.isSchedulable,
    connected: instance.isConnected,
    draining: instance.isDraining,
    silent_ms: Math.round(instance.silentMs),
    stalled_ms: instance.stalledMs,
    in_flight: instance.numInFlight,
    running: load.numRunning,
    waiting: load.numWaiting,
    queued_tokens: load.numQueuedTokens,
    context_tokens: load.numContextTokens,
    kv_blocks: capacity.numKvBlocks,
    kv_blocks_used: load.numKvBlocksUsed,
    cached_blocks: instance.numCachedBlocks,
    block_tokens: capacity.blockTokens,
    max_model_len: capacity.maxModelLen,
    max_num_seqs: capacity.maxNumSeqs,
    max_ttft_ms: latency.maxTtftMs,
    max_token_gap_ms: latency.maxTokenGapMs,
    decode_step_ms: stepTime && Math.round(predictStepMs(stepTime, shape) * 100) / 100,
    numerics_id: instance.numericsId,
    kv_layout: instance.kvLayout,
  };
}
