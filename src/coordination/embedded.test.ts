// The embedded coordinator over a real unix socket: registration, refresh, loss with the holder, successors.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ContractServer } from '../contract/grpc.ts';
import { decodeRecord, encodeRecord, INSTANCE_PREFIX, type WatchEvent } from './coordinator.ts';
import { EmbeddedCoordinator } from './embedded.ts';
import { RemoteCoordinator } from './remote.ts';

const record = { name: 'e0', incarnation: '1', address: 'unix:/x', model: 'm', build: 'b', roles: ['mix'] };
const key = `${INSTANCE_PREFIX}e0`;
let folder: string;
let server: ContractServer;
let coordinator: EmbeddedCoordinator;
let events: WatchEvent[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'xllm-coordination-'));
  server = new ContractServer();
  coordinator = new EmbeddedCoordinator();
  coordinator.serve(server);
  await server.listen(`unix:${folder}/c.sock`);
  events = [];
  coordinator.watch(INSTANCE_PREFIX, (event) => events.push(event));
});

afterEach(() => {
  server.close();
  coordinator.close();
  rmSync(folder, { recursive: true });
});

test('a key appears with its holder and goes when the holder dies', async () => {
  const remote = new RemoteCoordinator(`unix:${folder}/c.sock`);
  remote.hold(key, encodeRecord(record), 60_000);
  await vi.waitFor(() => expect(events).toHaveLength(1));
  expect(decodeRecord(events[0]?.value ?? new Uint8Array())).toEqual(record);
  remote.close();
  await vi.waitFor(() => expect(events).toHaveLength(2));
  expect(events[1]).toMatchObject({ key, value: null });
});

test('a refresh is no event, an update is one, and a stale holder cannot drop its successor', async () => {
  const first = coordinator.hold(key, encodeRecord(record));
  first.update(encodeRecord(record));
  expect(events).toHaveLength(1);
  const second = coordinator.hold(key, encodeRecord({ ...record, incarnation: '2' }));
  first.release();
  expect(events).toHaveLength(2);
  second.release();
  expect(events.at(-1)?.value).toBeNull();
});

test('a late watcher sees what is there; foreign bytes are no record', () => {
  coordinator.hold(key, encodeRecord(record));
  const late: WatchEvent[] = [];
  coordinator.watch(INSTANCE_PREFIX, (event) => late.push(event))();
  expect(late).toHaveLength(1);
  expect(decodeRecord(new TextEncoder().encode('{"name":1}'))).toBeNull();
  expect(decodeRecord(new TextEncoder().encode('not json'))).toBeNull();
});
