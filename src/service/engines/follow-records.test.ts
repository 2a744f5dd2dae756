// Keys of the coordinator as records: listed, renewed, gone, through snapshots; foreign ones change nothing.
import { expect, test } from 'vitest';
import type { Coordinator, WatchEvent } from '../../coordination/coordinator.ts';
import { EmbeddedCoordinator } from '../../coordination/embedded.ts';
import { encodeRecord, INSTANCE_PREFIX } from '../../coordination/instance-record.ts';
import { followRecords } from './follow-records.ts';

const record = {
  name: 'a',
  incarnation: '1',
  address: 'unix:/a',
  roles: ['mix' as const],
  model: 'm',
  build: '',
  numericsId: 'n',
  kvLayout: '',
  capacity: {
    maxNumSeqs: 1,
    maxNumBatchedTokens: 1,
    longPrefillThreshold: 256,
    numKvBlocks: 1,
    blockTokens: 16,
    maxModelLen: 16,
  },
  stepTime: null,
};
const encoder = new TextEncoder();

function follow(coordinator: Pick<Coordinator, 'watch'>): string[] {
  const told: string[] = [];
  followRecords(coordinator as Coordinator, {
    onListed: ({ name, incarnation }) => told.push(`listed ${name} ${incarnation}`),
    onUnlisted: (name) => told.push(`unlisted ${name}`),
    onIgnored: (key, why) => told.push(`ignored ${key}: ${why}`),
  });
  return told;
}

test('records come and go; what is no record, or a newer one, is told once and changes nothing', async () => {
  const coordinator = new EmbeddedCoordinator();
  const told = follow(coordinator);
  const put = (key: string, value: Uint8Array) => coordinator.compareAndSet(`${INSTANCE_PREFIX}${key}`, value, []);
  await put('a', encodeRecord(record));
  await put('b', encoder.encode('{"version": 2, "name": "b"}'));
  await put('b', encoder.encode('{"version": 2, "name": "b"}'));
  await put('c', encoder.encode('not json'));
  await put('d', encodeRecord(record));
  await put('e', encodeRecord({ ...record, name: 'e', roles: [] }));
  await coordinator.compareAndSet(`${INSTANCE_PREFIX}a`, null, []);
  expect(told).toEqual([
    'listed a 1',
    'ignored /instances/b: it is of version 2, and this build knows version 1',
    'ignored /instances/c: it is not JSON',
    'ignored /instances/d: it names itself a',
    expect.stringMatching(/^ignored \/instances\/e: roles: /),
    'unlisted a',
  ]);
});

test('a snapshot after an outage tells what has changed in it', () => {
  let emit: (event: WatchEvent) => void = () => {};
  const told = follow({
    watch: (_, onEvent) => {
      emit = onEvent;
      return () => {};
    },
  });
  const entry = (name: string, incarnation = '1') => ({
    key: `${INSTANCE_PREFIX}${name}`,
    value: encodeRecord({ ...record, name, incarnation }),
    revision: 1,
  });
  emit({ kind: 'snapshot', revision: 1, entries: [entry('a'), entry('b')] });
  emit({ kind: 'snapshot', revision: 9, entries: [entry('b', '2'), entry('c')] });
  expect(told).toEqual(['listed a 1', 'listed b 1', 'unlisted a', 'listed b 2', 'listed c 1']);
});
