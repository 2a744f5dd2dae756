// Owns a cluster in virtual time: arrivals of a trace, the real registry and router, simulated engines. Deterministic.
import { BlockHasher, type BlockDigest, rootDigest } from '../../src/common/block-digest.ts';
import type { JournalEntry } from '../../src/service/registry/load-journal.ts';
import { Registry } from '../../src/service/registry/registry.ts';
import type { PolicyName } from '../../src/service/routing/policies.ts';
import { Router } from '../../src/service/routing/router.ts';
import { SimInstance, type SimInstanceOptions } from './sim-instance.ts';

export interface SimRequest {
  readonly atMs: number;
  readonly promptIds: Int32Array;
  readonly maxTokens: number;
}

export interface SimOptions {
  readonly policy: PolicyName;
  readonly numInstances: number;
  readonly instance: Omit<SimInstanceOptions, 'name' | 'modelName' | 'numericsId'>;
  readonly ttftSloMs: number;
  readonly tpotSloMs: number;
}

export interface SimResult {
  /** Per request, in order of arrival; NaN where it was refused. */
  readonly ttftMs: Float64Array;
  readonly tpotMs: Float64Array;
  /** Share of prompt tokens found in a prefix cache. */
  readonly hitRate: number;
  readonly ttftError: number;
}

/** As the service has them: heartbeats and cache events come with this period. */
const BEAT_MS = 250;
const modelName = 'sim';
const numericsId = 'sim';

interface Event {
  readonly atMs: number;
  readonly ordinal: number;
  readonly run: (nowMs: number) => void;
}

/** A binary heap by time; ties in order of insertion. */
class EventQueue {
  readonly #heap: Event[] = [];
  #numPushed = 0;

  push(atMs: number, run: (nowMs: number) => void): void {
    const heap = this.#heap;
    heap.push({ atMs, ordinal: this.#numPushed++, run });
    for (let i = heap.length - 1; i > 0; ) {
      const parent = (i - 1) >> 1;
      if (!isBefore(heap[i]!, heap[parent]!)) break;
      [heap[i], heap[parent]] = [heap[parent]!, heap[i]!];
      i = parent;
    }
  }

  pop(): Event | null {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (!first || !last) return null;
    if (heap.length === 0) return first;
    heap[0] = last;
    for (let i = 0; ; ) {
      const left = 2 * i + 1;
      let least = i;
      if (left < heap.length && isBefore(heap[left]!, heap[least]!)) least = left;
      if (left + 1 < heap.length && isBefore(heap[left + 1]!, heap[least]!)) least = left + 1;
      if (least === i) return first;
      [heap[i], heap[least]] = [heap[least]!, heap[i]!];
      i = least;
    }
  }
}

const isBefore = (a: Event, b: Event) => a.atMs < b.atMs || (a.atMs === b.atMs && a.ordinal < b.ordinal);

export function simulate(requests: readonly SimRequest[], options: SimOptions): SimResult {
  const { policy, numInstances, instance, ttftSloMs, tpotSloMs } = options;
  const registry = new Registry(BEAT_MS);
  const router = new Router(policy);
  const queue = new EventQueue();
  const hasher = new BlockHasher(instance.blockTokens);
  const root = rootDigest({ model: modelName, numericsId, blockTokens: instance.blockTokens, adapter: '', salt: '' });
  const ttftMs = new Float64Array(requests.length).fill(Number.NaN);
  const tpotMs = new Float64Array(requests.length).fill(Number.NaN);
  const entries: (JournalEntry | undefined)[] = [];
  const onFirst: ((ttft: number) => void)[] = [];
  let numOpen = requests.length;

  const members = Array.from({ length: numInstances }, (_, i) => {
    const name = `engine-${i}`;
    const engine = new SimInstance({ ...instance, name, modelName, numericsId });
    const { numKvBlocks, blockTokens, maxNumSeqs, maxNumBatchedTokens, maxModelLen, stepTime } = instance;
    const { longPrefillThreshold } = instance;
    const life = { name, incarnation: name };
    registry.registered(
      {
        ...life,
        version: 1,
        address: name,
        roles: ['mix'],
        model: modelName,
        build: '',
        numericsId,
        kvLayout: '',
        capacity: { maxNumSeqs, maxNumBatchedTokens, longPrefillThreshold, numKvBlocks, blockTokens, maxModelLen },
        stepTime,
      },
      0,
    );
    const journal = registry.connected(life);
    if (!journal) throw new Error('the registry does not know what it was told');
    return { engine, life, journal };
  });
  type Member = (typeof members)[number];

  const advance = (member: Member, nowMs: number): void => {
    if (member.engine.isComputing) return;
    const stepMs = member.engine.begin(nowMs);
    if (stepMs === null) return;
    queue.push(nowMs + stepMs, (endMs) => {
      for (const { id, finish } of member.engine.end(endMs)) {
        const entry = entries[id];
        const request = requests[id];
        if (!entry || !request) continue;
        if (Number.isNaN(entry.firstMs)) {
          entry.firstMs = endMs;
          ttftMs[id] = endMs - request.atMs;
          onFirst[id]?.(endMs - request.atMs);
        }
        if (finish === null) continue;
        entry.endMs = endMs;
        numOpen--;
        tpotMs[id] = request.maxTokens > 1 ? (endMs - entry.firstMs) / (request.maxTokens - 1) : 0;
      }
      advance(member, endMs);
    });
  };
  const beat = (member: Member, nowMs: number): void => {
    registry.kvEvents(member.life, member.engine.events(registry.kvNumber(member.life.name)));
    registry.heartbeat(member.life, member.engine.beat(), nowMs);
    if (numOpen > 0) queue.push(nowMs + BEAT_MS, (atMs) => beat(member, atMs));
  };
  members.forEach((member, i) => queue.push((i * BEAT_MS) / numInstances, (nowMs) => beat(member, nowMs)));

  requests.forEach(({ atMs, promptIds, maxTokens }, id) => {
    queue.push(atMs, (nowMs) => {
      const digests: BlockDigest[] = [];
      const decision = router.route(
        {
          ordinal: id,
          model: modelName,
          numPromptTokens: promptIds.length,
          maxTokens,
          numSeqs: 1,
          sessionKey: '',
          ttftSloMs,
          tpotSloMs,
          digestsFor: () => {
            if (digests.length === 0) hasher.extend(digests, root, promptIds, promptIds.length);
            return digests;
          },
        },
        registry.view(nowMs),
        new Set(),
      );
      const member = members.find(({ life }) => life.name === decision?.instance);
      if (!decision || !member || !member.engine.submit(id, promptIds, maxTokens, nowMs)) {
        numOpen--;
        return;
      }
      entries[id] = member.journal.sent(nowMs, 1, promptIds.length - decision.chosen.cachedTokens);
      onFirst[id] = (ttft) => {
        router.correction.observe(decision.instance, decision.chosen.ttftMs, ttft);
      };
      advance(member, nowMs);
    });
  });
  for (let event = queue.pop(); event; event = queue.pop()) event.run(event.atMs);

  const prefix = members.map(({ engine }) => engine.prefix);
  const sum = (of: (one: (typeof prefix)[number]) => number) => prefix.reduce((total, one) => total + of(one), 0);
  const errors = members.map(({ life }) => router.correction.errorOf(life.name) ?? 0);
  return {
    ttftMs,
    tpotMs,
    hitRate:
      sum(({ hits }) => hits) /
      Math.max(
        1,
        sum(({ queries }) => queries),
      ),
    ttftError: errors.reduce((total, error) => total + error, 0) / errors.length,
  };
}
