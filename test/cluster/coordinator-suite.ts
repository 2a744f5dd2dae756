// Owns what every coordinator must do, whatever it is made of: run against each by coordinator.test.ts.
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Coordinator, CoordinatorEvents, Leader, WatchEvent } from '../../src/coordination/coordinator.ts';
import { counts, eventually } from '../support/server.ts';

/** A store that can be killed, and clients of it as other processes would be. */
export interface CoordinatorWorld {
  connect(events: CoordinatorEvents): Coordinator;
  /** Arguments of coordinator-child.ts. */
  readonly childArgs: readonly [kind: string, address: string, namespace: string];
  kill(): Promise<void>;
  restart(): Promise<void>;
  close(): Promise<void>;
}

const TTL_MS = 2_000;
const childEntry = new URL('../support/coordinator-child.ts', import.meta.url).pathname;
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (value: Uint8Array) => new TextDecoder().decode(value);

/** What a watcher knows, and how it came to know it. */
class View {
  readonly keys = new Map<string, string>();
  readonly events: WatchEvent[] = [];

  readonly take = (event: WatchEvent): void => {
    this.events.push(event);
    if (event.kind === 'snapshot') {
      this.keys.clear();
      for (const { key, value } of event.entries) this.keys.set(key, text(value));
    } else if (event.kind === 'put') this.keys.set(event.key, text(event.value));
    else this.keys.delete(event.key);
  };

  /** Changes told one by one. */
  get changes(): WatchEvent[] {
    return this.events.filter(({ kind }) => kind !== 'snapshot');
  }
}

export function coordinatorSuite(name: string, open: () => Promise<CoordinatorWorld>): void {
  describe(name, () => {
    let world: CoordinatorWorld;
    const clients: Coordinator[] = [];
    const children: ChildProcess[] = [];
    const outages: string[] = [];
    const connect = () => {
      const client = world.connect({
        onUnavailable: () => outages.push('lost'),
        onAvailable: () => outages.push('back'),
      });
      clients.push(client);
      return client;
    };
    const spawnChild = (mode: 'hold' | 'elect', key: string, value: string, ttlMs = TTL_MS) => {
      const child = spawn(process.execPath, [childEntry, ...world.childArgs, mode, key, value, String(ttlMs)], {
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      children.push(child);
      return child;
    };
    /** Each test has keys of its own. */
    let prefix = '';
    let serial = 0;

    beforeAll(async () => {
      world = await open();
    });
    beforeEach(() => {
      prefix = `/test-${++serial}/`;
      outages.length = 0;
    });
    afterEach(async () => {
      for (const child of children.splice(0)) child.kill('SIGKILL');
      for (const client of clients.splice(0)) await client.close();
    });
    afterAll(async () => {
      await world?.close();
    });

    test('a held key is there, changes with its holder, and goes when it is released', async () => {
      const holder = connect();
      const view = new View();
      connect().watch(prefix, view.take);
      const held = holder.hold(`${prefix}a`, bytes('1'), TTL_MS);
      await eventually(() => view.keys.get(`${prefix}a`) === '1', 'the key is there');
      held.update(bytes('2'));
      await eventually(() => view.keys.get(`${prefix}a`) === '2', 'its value has changed');
      await held.release();
      await eventually(() => view.keys.size === 0, 'it is gone');
    });

    test('refreshing a lease keeps the key and is no event', async () => {
      const view = new View();
      connect().watch(prefix, view.take);
      connect().hold(`${prefix}a`, bytes('1'), TTL_MS);
      await eventually(() => view.keys.size === 1, 'the key is there');
      await sleep(2 * TTL_MS);
      expect(view.changes).toHaveLength(1);
    });

    test('a predecessor that lets go does not take its successor along', async () => {
      const view = new View();
      const [first, second] = [connect(), connect()];
      second.watch(prefix, view.take);
      const before = first.hold(`${prefix}a`, bytes('old'), TTL_MS);
      await eventually(() => view.keys.get(`${prefix}a`) === 'old', 'the first holds it');
      second.hold(`${prefix}a`, bytes('new'), TTL_MS);
      await eventually(() => view.keys.get(`${prefix}a`) === 'new', 'the second holds it');
      // While both live the successor's stands, however often the other refreshes or changes its value.
      before.update(bytes('older'));
      await sleep(2 * TTL_MS);
      expect(view.changes).toHaveLength(2);
      await before.release();
      expect(await second.get(`${prefix}a`)).toMatchObject({ value: Buffer.from('new') });
    });

    test('a key goes when the process that holds it is killed', async () => {
      const view = new View();
      connect().watch(prefix, view.take);
      const child = spawnChild('hold', `${prefix}a`, '1');
      await eventually(() => view.keys.size === 1, 'the key is there');
      child.kill('SIGKILL');
      await eventually(() => view.keys.size === 0, 'the key is gone');
    });

    test('a key goes when the process that holds it is stopped, and is back when it goes on', async () => {
      const view = new View();
      connect().watch(prefix, view.take);
      const child = spawnChild('hold', `${prefix}a`, '1');
      await eventually(() => view.keys.size === 1, 'the key is there');
      child.kill('SIGSTOP');
      await eventually(() => view.keys.size === 0, 'the key is gone');
      child.kill('SIGCONT');
      await eventually(() => view.keys.get(`${prefix}a`) === '1', 'the key is back');
    });

    test('a watcher gets a snapshot, then each change once and in order, of its prefix alone', async () => {
      const client = connect();
      await client.compareAndSet(`${prefix}a`, bytes('0'), []);
      const view = new View();
      connect().watch(prefix, view.take);
      await eventually(() => view.keys.size === 1, 'the snapshot has come');
      const revisions: (number | null)[] = [];
      for (let i = 1; i <= 20; i++) revisions.push(await client.compareAndSet(`${prefix}a`, bytes(String(i)), []));
      await client.compareAndSet('/elsewhere', bytes('x'), []);
      await client.compareAndSet(`${prefix}a`, null, []);
      await eventually(() => view.keys.size === 0, 'the last change has come');
      expect(view.events[0]?.kind).toBe('snapshot');
      expect(view.changes.map(({ kind }) => kind)).toEqual([...Array(20).fill('put'), 'delete']);
      expect(view.changes.slice(0, 20).map(({ revision }) => revision)).toEqual(revisions);
      expect(new Set(revisions).size).toBe(20);
    });

    test('a watcher from a revision gets what came after it', async () => {
      const client = connect();
      const revisions: number[] = [];
      for (let i = 0; i < 10; i++)
        revisions.push((await client.compareAndSet(`${prefix}${i % 3}`, bytes(String(i)), [])) ?? -1);
      const view = new View();
      connect().watch(prefix, view.take, revisions[6]);
      await eventually(() => view.events.length === 3, 'the last three have come');
      expect(view.changes.map(({ revision }) => revision)).toEqual(revisions.slice(7));
    });

    test('compare-and-set lets one of many through, also on the state of another key', async () => {
      const peers = [connect(), connect(), connect()];
      const numEach = counts(10, 50);
      let numConflicts = 0;
      const add = async (client: Coordinator) => {
        for (let done = 0; done < numEach; ) {
          const before = await client.get(`${prefix}n`);
          const next = bytes(String(Number(before ? text(before.value) : 0) + 1));
          const revision = await client.compareAndSet(`${prefix}n`, next, [
            { key: `${prefix}n`, revision: before?.revision ?? 0 },
          ]);
          if (revision === null) numConflicts++;
          else done++;
        }
      };
      await Promise.all(peers.map(add));
      const [client] = peers;
      const total = await client?.get(`${prefix}n`);
      expect(text(total?.value ?? bytes(''))).toBe(String(peers.length * numEach));
      expect(numConflicts).toBeGreaterThan(0);
      const guard = { key: `${prefix}n`, revision: total?.revision ?? 0 };
      expect(await client?.compareAndSet(`${prefix}x`, bytes('1'), [{ ...guard, revision: 1 }])).toBeNull();
      expect(
        await client?.compareAndSet(`${prefix}x`, bytes('1'), [guard, { key: `${prefix}x`, revision: 0 }]),
      ).toEqual(expect.any(Number));
      expect(await client?.compareAndSet(`${prefix}x`, null, [guard])).toEqual(expect.any(Number));
      expect(await client?.get(`${prefix}x`)).toBeNull();
    });

    test('one candidate leads; another follows when it resigns; the old one cannot write any more', async () => {
      const candidates = ['a', 'b', 'c'].map((id) => {
        const client = connect();
        const seen: (Leader | null)[] = [];
        return {
          id,
          client,
          seen,
          election: client.elect(`${prefix}leader`, id, TTL_MS, (leader) => seen.push(leader)),
        };
      });
      const leading = () => candidates.filter(({ election }) => election.ownTerm !== null);
      const agreed = () =>
        leading().length === 1 &&
        candidates.every(({ election }) => election.leader?.candidate === leading()[0]?.id) &&
        leading()[0];
      const first = await eventually(agreed, 'all agree on one leader');
      const fence = { key: `${prefix}leader`, revision: first.election.ownTerm ?? -1 };
      expect(await first.client.compareAndSet(`${prefix}decision`, bytes('1'), [fence])).toEqual(expect.any(Number));
      candidates.splice(candidates.indexOf(first), 1);
      await first.election.resign();
      const second = await eventually(agreed, 'the others agree on another');
      expect(second.election.ownTerm).toBeGreaterThan(fence.revision);
      expect(await first.client.compareAndSet(`${prefix}decision`, bytes('2'), [fence])).toBeNull();
    });

    test('a killed leader is followed within the lease time', async () => {
      const seen: (Leader | null)[] = [];
      const child = spawnChild('elect', `${prefix}leader`, 'child');
      const watcher = new View();
      connect().watch(prefix, watcher.take);
      await eventually(() => watcher.keys.get(`${prefix}leader`) === 'child', 'the child leads');
      const election = connect().elect(`${prefix}leader`, 'me', TTL_MS, (leader) => seen.push(leader));
      await eventually(() => election.leader?.candidate === 'child', 'its lead is known');
      const killedMs = performance.now();
      child.kill('SIGKILL');
      await eventually(() => election.ownTerm !== null, 'it is followed');
      console.log(
        `${name}: promoted ${Math.round(performance.now() - killedMs)} ms after the kill, lease ${TTL_MS} ms`,
      );
      expect(seen.filter((leader) => leader?.candidate === 'me')).toHaveLength(1);
    });

    test('an outage takes nothing from a watcher; then everything is made again', async () => {
      const holder = connect();
      const watching = connect();
      const electing = connect();
      const view = new View();
      watching.watch(prefix, view.take);
      const held = holder.hold(`${prefix}a`, bytes('1'), TTL_MS);
      const election = electing.elect(`${prefix}leader`, 'me', TTL_MS, () => {});
      await eventually(() => view.keys.size === 2 && election.ownTerm !== null, 'all is set up');
      await world.kill();
      await eventually(() => outages.filter((what) => what === 'lost').length === 3, 'all three have noticed');
      const numEvents = view.events.length;
      // Longer than any lease: a leader that cannot refresh must step down by its own clock.
      await sleep(counts(2 * TTL_MS, 60_000));
      expect(election.ownTerm).toBeNull();
      expect(view.events).toHaveLength(numEvents);
      expect(view.keys.get(`${prefix}a`)).toBe('1');
      await expect(watching.get(`${prefix}a`)).rejects.toThrow();
      held.update(bytes('2'));
      await world.restart();
      await eventually(() => view.keys.get(`${prefix}a`) === '2', 'the key is there again, as it is now');
      await eventually(() => election.ownTerm !== null, 'there is a leader again');
      // However often it was tried, the log has two lines of each.
      await eventually(() => outages.filter((what) => what === 'back').length === 3, 'all three are back');
      expect(outages.filter((what) => what === 'lost')).toHaveLength(3);
      await sleep(2 * TTL_MS);
      expect(view.keys.get(`${prefix}a`)).toBe('2');
      expect(election.ownTerm).not.toBeNull();
    });
  });
}
