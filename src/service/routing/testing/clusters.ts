// Owns arbitrary clusters and requests for tests of routing.
import fc from 'fast-check';
import type { BlockDigest } from '../../../common/block-digest.ts';
import type { ClusterView, InstanceView } from '../../registry/cluster-view.ts';
import type { RoutingRequest } from '../policy.ts';

const blockTokens = 16;

/** Digests of a prompt of which an instance holds the first `held` blocks. */
const digests = Array.from({ length: 1_000 }, (_, i) => i.toString(16).padStart(32, '0') as BlockDigest);

export interface TestInstance {
  readonly view: InstanceView;
  readonly heldBlocks: number;
}

export function instanceView(name: string, more: Partial<InstanceView> = {}): InstanceView {
  return {
    name,
    incarnation: name,
    address: `unix:/${name}`,
    build: 'b',
    model: 'm',
    roles: ['mix'],
    state: 'ACTIVE',
    isSchedulable: true,
    isConnected: true,
    isDraining: false,
    numericsId: 'n',
    kvLayout: 'k',
    capacity: {
      maxNumSeqs: 16,
      maxNumBatchedTokens: 512,
      longPrefillThreshold: 256,
      numKvBlocks: 4_000,
      blockTokens,
      maxModelLen: 16_384,
    },
    load: { numRunning: 0, numWaiting: 0, numQueuedTokens: 0, numContextTokens: 0, numKvBlocksUsed: 0 },
    latency: { maxTtftMs: 0, maxTokenGapMs: 0 },
    unreported: { numRequests: 0, numPromptTokens: 0 },
    numCachedBlocks: 0,
    numInFlight: 0,
    stepTime: { constantMs: 4, tokenMs: 0.5, seqMs: 0.2, contextMs: 1e-3, pairMs: 1e-5 },
    stalledMs: 0,
    silentMs: 0,
    ...more,
  };
}

export function clusterOf(instances: readonly TestInstance[]): ClusterView {
  const held = new Map(instances.map(({ view, heldBlocks }) => [view.name, heldBlocks]));
  return {
    nowMs: 0,
    instances: instances.map(({ view }) => view),
    prefixBlocks: (name, wanted) => Math.min(held.get(name) ?? 0, wanted.length),
  };
}

export function routingRequest(more: Partial<RoutingRequest> = {}): RoutingRequest {
  const numPromptTokens = more.numPromptTokens ?? 1_000;
  return {
    ordinal: 0,
    model: 'm',
    numPromptTokens,
    maxTokens: 100,
    numSeqs: 1,
    sessionKey: '',
    ttftSloMs: 1_000,
    tpotSloMs: 50,
    digestsFor: () => digests.slice(0, Math.floor(numPromptTokens / blockTokens)),
    ...more,
  };
}

const load = fc.record({
  numRunning: fc.integer({ min: 0, max: 16 }),
  numWaiting: fc.integer({ min: 0, max: 20 }),
  numQueuedTokens: fc.integer({ min: 0, max: 20_000 }),
  numContextTokens: fc.integer({ min: 0, max: 30_000 }),
  numKvBlocksUsed: fc.integer({ min: 0, max: 4_000 }),
});

export const testInstances = fc
  .array(
    fc.record({
      isIdle: fc.boolean(),
      load,
      heldBlocks: fc.constantFrom(0, 0, 5, 40, 500),
      isSchedulable: fc.constantFrom(true, true, true, false),
      model: fc.constantFrom('m', 'm', 'm', 'other'),
    }),
    { minLength: 1, maxLength: 6 },
  )
  .map((all) =>
    all.map(({ isIdle, heldBlocks, load: someLoad, ...more }, i): TestInstance => {
      const view = instanceView(`engine-${i}`, isIdle ? more : { ...more, load: someLoad });
      return { view, heldBlocks };
    }),
  );

export const routingRequests = fc
  .record({
    ordinal: fc.nat(1_000),
    numPromptTokens: fc.integer({ min: 1, max: 12_000 }),
    maxTokens: fc.integer({ min: 1, max: 2_000 }),
    numSeqs: fc.integer({ min: 1, max: 3 }),
    sessionKey: fc.constantFrom('', '', 'anna', 'bert'),
    ttftSloMs: fc.constantFrom(200, 1_000, 10_000),
    tpotSloMs: fc.constantFrom(5, 50, 500),
  })
  .map(routingRequest);
