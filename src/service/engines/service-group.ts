// Owns this replica's place among the service replicas of a cluster: who they are, and which one writes for all.
import { z } from 'zod';
import type { Coordinator, Election, HeldKey } from '../../coordination/coordinator.ts';
import { WRITER_KEY } from '../../coordination/instance-record.ts';
import type { ClusterView } from '../registry/cluster-view.ts';

const SERVICE_PREFIX = '/services/';
/** What the writer sees, for whoever watches the coordinator and for replicas that have just begun. */
const SUMMARY_KEY = '/summary';
const LEASE_MS = 5_000;
const PUBLISH_MS = 3_000;

const replicaSchema = z.object({ version: z.literal(1), name: z.string(), url: z.string(), build: z.string() });
const summarySchema = z.object({
  version: z.literal(1),
  writer: z.string(),
  atMs: z.number(),
  instances: z.array(
    z.object({
      name: z.string(),
      model: z.string(),
      state: z.string(),
      numRunning: z.number(),
      numWaiting: z.number(),
    }),
  ),
});

export type ReplicaRecord = Omit<z.output<typeof replicaSchema>, 'version'>;
export type ClusterSummary = Omit<z.output<typeof summarySchema>, 'version'>;

export interface GroupReport {
  /** This one. */
  readonly replica: string;
  readonly replicas: readonly ReplicaRecord[];
  readonly writer: string | null;
  /** What the writer published last; null: nothing yet. */
  readonly summary: ClusterSummary | null;
}

export interface ServiceGroupOptions {
  readonly coordinator: Coordinator;
  readonly self: ReplicaRecord;
  readonly view: () => ClusterView;
  readonly onWriter: (writer: string | null) => void;
}

export class ServiceGroup {
  readonly #options: ServiceGroupOptions;
  readonly #held: HeldKey;
  readonly #election: Election;
  readonly #stops: readonly (() => void)[];
  readonly #timer: NodeJS.Timeout;
  readonly #replicas = new Map<string, ReplicaRecord>();
  #summary: ClusterSummary | null = null;
  #published = '';
  #isPublishing = false;

  constructor(options: ServiceGroupOptions) {
    const { coordinator, self, onWriter } = options;
    this.#options = options;
    const key = `${SERVICE_PREFIX}${self.name}`;
    this.#held = coordinator.hold(key, encode({ version: 1, ...self }), LEASE_MS);
    this.#election = coordinator.elect(WRITER_KEY, self.name, LEASE_MS, (leader) => {
      onWriter(leader?.candidate ?? null);
      void this.#publish();
    });
    this.#stops = [
      coordinator.watch(SERVICE_PREFIX, (event) => {
        if (event.kind === 'snapshot') {
          this.#replicas.clear();
          for (const { key: at, value } of event.entries) this.#take(at, value);
        } else if (event.kind === 'put') this.#take(event.key, event.value);
        else this.#replicas.delete(event.key);
      }),
      coordinator.watch(SUMMARY_KEY, (event) => {
        const value = event.kind === 'put' ? event.value : event.kind === 'snapshot' ? event.entries[0]?.value : null;
        if (value) this.#summary = decode(summarySchema, value);
      }),
    ];
    this.#timer = setInterval(() => void this.#publish(), PUBLISH_MS).unref();
  }

  report(): GroupReport {
    return {
      replica: this.#options.self.name,
      replicas: [...this.#replicas.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
      writer: this.#election.leader?.candidate ?? null,
      summary: this.#summary,
    };
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    for (const stop of this.#stops) stop();
    await this.#election.resign();
    await this.#held.release();
  }

  #take(key: string, value: Uint8Array): void {
    const record = decode(replicaSchema, value);
    if (record) this.#replicas.set(key, record);
  }

  /** Only the writer's writes go through: each is conditional on its lead. */
  async #publish(): Promise<void> {
    const term = this.#election.ownTerm;
    if (term === null || this.#isPublishing) return;
    const { coordinator, self, view } = this.#options;
    const instances = view().instances.map(({ name, model, state, load }) => ({
      name,
      model,
      state,
      numRunning: load.numRunning,
      numWaiting: load.numWaiting,
    }));
    const content = JSON.stringify([term, instances]);
    if (content === this.#published) return;
    this.#isPublishing = true;
    try {
      const value = encode({ version: 1, writer: self.name, atMs: Date.now(), instances });
      const revision = await coordinator.compareAndSet(SUMMARY_KEY, value, [{ key: WRITER_KEY, revision: term }]);
      if (revision !== null) this.#published = content;
    } catch {
      // The store is away, which its owner is told elsewhere: the next round tries again.
    } finally {
      this.#isPublishing = false;
    }
  }
}

function encode(value: object): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** null: not of a form that this build knows. */
function decode<T extends z.ZodType>(schema: T, bytes: Uint8Array): z.output<T> | null {
  try {
    return schema.safeParse(JSON.parse(new TextDecoder().decode(bytes))).data ?? null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
