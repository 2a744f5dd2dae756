// The registry: joining, leaving, successors, and that whatever means another life or instance changes nothing.
import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import type { BlockDigest } from '../../common/block-digest.ts';
import { type Heartbeat, HeartbeatSchema, StatusReplySchema } from '../../contract/generated/xllm_pb.js';
import { decodeRecord, encodeRecord, type InstanceRecord } from '../../coordination/instance-record.ts';
import type { InstanceView } from './cluster-view.ts';
import { canServe } from './groups.ts';
import { Registry } from './registry.ts';

const TICK_MS = 250;

function recordOf(name: string, more: Partial<InstanceRecord> = {}): InstanceRecord {
  const record = decodeRecord(
    encodeRecord({
      name,
      incarnation: `${name}-1`,
      address: `unix:/${name}`,
      roles: ['mix'],
      model: 'm',
      build: 'b',
      numericsId: 'n',
      kvLayout: 'k',
      capacity: {
        maxNumSeqs: 8,
        maxNumBatchedTokens: 512,
        longPrefillThreshold: 256,
        numKvBlocks: 100,
        blockTokens: 16,
        maxModelLen: 1024,
      },
      stepTime: null,
      ...more,
    }),
  );
  if (typeof record === 'string') throw new Error(record);
  return record;
}

function beatOf(
  incarnation: string,
  more: { running?: number; draining?: boolean; numSubmits?: bigint } = {},
): Heartbeat {
  const status = create(StatusReplySchema, { numRunning: more.running ?? 0, draining: more.draining ?? false });
  return create(HeartbeatSchema, { incarnation, number: 1n, status, numSubmits: more.numSubmits ?? 0n });
}

/** A registry with one connected instance `a`. */
function withOne() {
  const registry = new Registry(TICK_MS);
  const a = recordOf('a');
  registry.registered(a, 0);
  const journal = registry.connected(a);
  registry.heartbeat(a, beatOf('a-1', { running: 3 }), 100);
  registry.kvEvents(a, { after: 0, number: 7, isSnapshot: true, stored: ['x' as BlockDigest], evicted: [] });
  return { registry, a, journal };
}
const only = (registry: Registry, nowMs: number): InstanceView => {
  const [instance] = registry.view(nowMs).instances;
  if (!instance) throw new Error('there is none');
  return instance;
};

describe('lives', () => {
  test('a new life replaces the old one and knows nothing of its cache', () => {
    const { registry } = withOne();
    const changes = registry.registered(recordOf('a', { incarnation: 'a-2' }), 200);
    expect(changes.map(({ kind, record }) => [kind, record.incarnation])).toEqual([
      ['left', 'a-1'],
      ['joined', 'a-2'],
    ]);
    expect(registry.view(200).prefixBlocks('a', ['x' as BlockDigest])).toBe(0);
    expect(only(registry, 200)).toMatchObject({ incarnation: 'a-2', isConnected: false, isSchedulable: false });
  });

  test('another life or an unknown name changes nothing', () => {
    const { registry } = withOne();
    const before = JSON.stringify(registry.view(300));
    for (const life of [
      { name: 'a', incarnation: 'a-0' },
      { name: 'a', incarnation: '' },
      { name: 'b', incarnation: 'a-1' },
    ]) {
      expect(registry.heartbeat(life, beatOf(life.incarnation, { running: 9 }), 300)).toEqual([]);
      expect(registry.unregistered(life, false, 300)).toEqual([]);
      expect(registry.connected(life)).toBeNull();
      expect(registry.disconnected(life)).toEqual([]);
      const events = { after: 0, number: 9, isSnapshot: true, stored: [], evicted: [] };
      expect(registry.kvEvents(life, events)).toBe(false);
    }
    // A heartbeat that came over the right connection from the wrong process.
    expect(registry.heartbeat({ name: 'a', incarnation: 'a-1' }, beatOf('a-9', { running: 9 }), 300)).toEqual([]);
    expect(JSON.stringify(registry.view(300))).toBe(before);
  });

  test('the same record again is no news', () => {
    const { registry, a } = withOne();
    expect(registry.registered(a, 200)).toEqual([]);
    expect(only(registry, 200).isConnected).toBe(true);
  });
});

describe('leaving', () => {
  test('silence makes it SUSPECT, without a registration it is removed', () => {
    const { registry, a } = withOne();
    expect(registry.unregistered(a, true, 200)).toMatchObject([{ kind: 'state', to: 'LEASE_LOST' }]);
    expect(only(registry, 200).isSchedulable).toBe(true);
    const changes = [];
    for (let nowMs = 200; nowMs < 30_000; nowMs += TICK_MS)
      for (const change of registry.tick(nowMs)) changes.push([nowMs, change.kind]);
    expect(changes).toEqual([
      [3_450, 'state'],
      [18_450, 'left'],
    ]);
    expect(registry.view(30_000).instances).toEqual([]);
  });

  test('one that drains takes nothing new and goes at once when its registration does', () => {
    const { registry, a } = withOne();
    registry.heartbeat(a, beatOf('a-1', { draining: true }), 200);
    expect(only(registry, 200)).toMatchObject({ state: 'ACTIVE', isSchedulable: false, isDraining: true });
    expect(registry.unregistered(a, false, 300)).toMatchObject([{ kind: 'left', reason: 'it has drained and left' }]);
  });

  test('one that drains, is still answering when its registration goes, and then closes', () => {
    const { registry, a } = withOne();
    registry.heartbeat(a, beatOf('a-1', { draining: true }), 200);
    registry.unregistered(a, true, 300);
    expect(registry.disconnected(a)).toMatchObject([{ kind: 'left' }]);
  });

  test('nobody is blamed for silence while this process itself stood still', () => {
    const { registry, a } = withOne();
    registry.tick(250);
    expect(registry.tick(60_000)).toEqual([]);
    expect(only(registry, 60_000).state).toBe('ACTIVE');
    registry.heartbeat(a, beatOf('a-1'), 60_001);
    for (let nowMs = 60_250; nowMs <= 63_001; nowMs += TICK_MS) expect(registry.tick(nowMs)).toEqual([]);
    expect(registry.tick(63_250)).toMatchObject([{ kind: 'state', from: 'ACTIVE', to: 'SUSPECT' }]);
  });
});

test('what was sent counts until a heartbeat knows of it', () => {
  const { registry, a, journal } = withOne();
  journal?.sent(150, 1, 100);
  journal?.sent(160, 2, 50);
  expect(only(registry, 170)).toMatchObject({ unreported: { numRequests: 3, numPromptTokens: 150 }, numInFlight: 2 });
  registry.heartbeat(a, beatOf('a-1', { running: 4, numSubmits: 1n }), 180);
  expect(only(registry, 190)).toMatchObject({
    load: { numRunning: 4 },
    unreported: { numRequests: 2, numPromptTokens: 50 },
  });
  registry.heartbeat(a, beatOf('a-1', { running: 6, numSubmits: 2n }), 200);
  expect(only(registry, 210)).toMatchObject({ load: { numRunning: 6 }, unreported: { numRequests: 0 } });
});

test('a group can serve a model with a mixed instance, or with a pair between which KV can travel', () => {
  const serves = (...records: readonly InstanceRecord[]) => {
    const registry = new Registry(TICK_MS);
    for (const record of records) {
      registry.registered(record, 0);
      registry.connected(record);
    }
    return canServe(registry.view(0).instances, 'm');
  };
  const prefill = recordOf('p', { roles: ['prefill'] });
  const decode = recordOf('d', { roles: ['decode'] });
  expect(serves()).toBe(false);
  expect(serves(recordOf('a'))).toBe(true);
  expect(serves(recordOf('a', { model: 'other' }))).toBe(false);
  expect(serves(prefill)).toBe(false);
  expect(serves(decode)).toBe(false);
  expect(serves(prefill, decode)).toBe(true);
  expect(serves(prefill, { ...decode, numericsId: 'other' })).toBe(false);
  expect(serves(prefill, { ...decode, kvLayout: 'other' })).toBe(false);
  expect(serves(prefill, { ...decode, model: 'other' })).toBe(false);
});
