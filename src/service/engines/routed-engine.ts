// Owns the engines as one EngineClient: routes each request, brings lost ones elsewhere, the urgent ones first.
import { BlockHasher, type BlockDigest, rootDigest } from '../../common/block-digest.ts';
import type { Clock } from '../../common/clock.ts';
import { isRefusal, type Refusal } from '../../common/errors.ts';
import type { StatusReply } from '../../contract/generated/xllm_pb.js';
import type {
  EngineClient,
  EngineDelta,
  EngineHandle,
  EngineModel,
  EngineRequest,
  InstanceStatus,
} from '../engine-client.ts';
import type { RoutingControl, RoutingFigures } from '../http/routing/control.ts';
import type { ClusterView, InstanceView } from '../registry/cluster-view.ts';
import type { PolicyName } from '../routing/policies.ts';
import type { RoutingRequest } from '../routing/policy.ts';
import { Router, type RoutingDecision } from '../routing/router.ts';
import type { Attempt, EngineConnection } from './engine-connection.ts';
import { PairAttempt } from './pair-attempt.ts';
import { type LoggedRequest, RequestLog } from './request-log.ts';
import { type AttemptListener, RoutedRequest, type RoutingHost } from './routed-request.ts';

export interface RoutingOptions {
  readonly policy: PolicyName;
  /** Objectives of requests that state none, for policies that look at them. */
  readonly targetTtftMs: number;
  readonly targetTpotMs: number;
  /** How long a lost request waits for an instance where there is none; 0: it fails at once. */
  readonly recoveryWaitMs: number;
}

export const defaultRouting: RoutingOptions = {
  policy: 'cache-aware',
  targetTtftMs: 1_000,
  targetTpotMs: 50,
  recoveryWaitMs: 0,
};

/** Of a request that states no deadline: a backstop, so that none is ever forgotten. */
const DEFAULT_DEADLINE_MS = 6 * 3_600_000;
/** How often waiting requests look for an instance, besides whenever one becomes available. */
const RETRY_MS = 250;

/** The instances that requests are routed to. */
export interface RoutedInstances {
  readonly models: readonly EngineModel[];
  view(): ClusterView;
  connection(name: string): Pick<EngineConnection, 'model' | 'submit' | 'expect'> | null;
  statuses(): Promise<readonly InstanceStatus[]>;
  /** Calls back whenever an instance has become able to take requests. Returns what ends it. */
  onAvailable(listener: () => void): () => void;
}

export class RoutedEngine implements EngineClient, RoutingControl {
  readonly #pool: RoutedInstances;
  readonly #clock: Clock;
  readonly #options: RoutingOptions;
  readonly #router: Router;
  readonly #log: RequestLog;
  readonly #running = new Set<RoutedRequest>();
  readonly #host: RoutingHost;
  readonly #stopListening: () => void;
  /** Lost, and not yet taken by another instance; with the time since when. */
  readonly #waiting = new Map<RoutedRequest, number>();
  #recovering: NodeJS.Timeout | null = null;
  #numArrivals = 0;
  /** By instance and policy. */
  readonly #decisions = new Map<string, { instance: string; policy: string; count: number }>();
  /** From the first token of one instance to the next one of another, since they were last fetched. */
  #handOffMs: number[] = [];
  #numRecoveries = 0;
  #numRecoveryFailures = 0;

  constructor(pool: RoutedInstances, clock: Clock, options: RoutingOptions) {
    this.#pool = pool;
    this.#clock = clock;
    this.#options = options;
    this.#router = new Router(options.policy);
    this.#log = new RequestLog(clock);
    this.#stopListening = pool.onAvailable(() => this.#recoverSoon());
    this.#host = {
      nowMs: () => clock.nowMs(),
      route: (routed, excluded) => this.#route(routed, excluded),
      submit: (decision, attempt, listener) => this.#submitTo(decision, attempt, listener),
      recover: (routed) => {
        this.#waiting.set(routed, clock.nowMs());
        this.#recoverSoon();
      },
      note: (routed, event) => this.#log.note(routed.request.requestId, event),
      measured: ({ instance, chosen, candidates }, ttftMs) => {
        // With one candidate nothing was looked up, and nothing depends on it.
        if (candidates.length > 1) this.#router.correction.observe(instance, chosen.ttftMs, ttftMs);
      },
      ended: (routed) => {
        this.#running.delete(routed);
        this.#waiting.delete(routed);
      },
    };
  }

  get models(): readonly EngineModel[] {
    return this.#pool.models;
  }

  get policy(): PolicyName {
    return this.#router.policy;
  }

  set policy(policy: PolicyName) {
    this.#router.policy = policy;
  }

  get figures(): RoutingFigures {
    const instances = this.#pool.view().instances.map(({ name }) => name);
    return {
      decisions: [...this.#decisions.values()],
      takeHandOffMs: () => this.#handOffMs.splice(0),
      numRecoveries: this.#numRecoveries,
      numRecoveryFailures: this.#numRecoveryFailures,
      ttftErrors: instances.flatMap((instance) => {
        const error = this.#router.correction.errorOf(instance);
        return error === null ? [] : [{ instance, error }];
      }),
    };
  }

  /** What happened to a recent request, by its client's id; empty: it is not known. */
  explain(id: string): readonly LoggedRequest[] {
    return this.#log.find(id);
  }

  view(): ClusterView {
    return this.#pool.view();
  }

  submit(request: EngineRequest, onDelta: (delta: EngineDelta) => void): Promise<EngineHandle | Refusal> {
    const timeoutMs = request.deadlineMs > 0 ? request.deadlineMs : DEFAULT_DEADLINE_MS;
    const routed = new RoutedRequest(this.#host, request, onDelta, { ordinal: this.#numArrivals++, timeoutMs });
    this.#running.add(routed);
    this.#log.begin(request.requestId, {
      model: request.model,
      numPromptTokens: request.promptIds.length,
      maxTokens: request.maxTokens,
    });
    return routed.start();
  }

  async status(): Promise<StatusReply | null> {
    const answers = (await this.statuses()).flatMap(({ status }) => status ?? []);
    return answers.reduce<StatusReply | null>(
      (best, status) => (best && best.stalledMs <= status.stalledMs ? best : status),
      null,
    );
  }

  statuses(): Promise<readonly InstanceStatus[]> {
    return this.#pool.statuses();
  }

  close(): void {
    this.#stopListening();
    if (this.#recovering) clearTimeout(this.#recovering);
    const error: Refusal = { refused: 'engine_unavailable', message: 'the service closes', retryAfterS: 1 };
    for (const routed of this.#running) routed.fail(error);
  }

  async #submitTo(
    { instance, decode }: RoutingDecision,
    attempt: Attempt,
    { onDelta, onHandOff }: AttemptListener,
  ): Promise<EngineHandle | Refusal> {
    const connection = this.#pool.connection(instance);
    if (!connection?.model) return gone(instance);
    if (!decode) return connection.submit(attempt, onDelta);
    const target = this.#pool.connection(decode.instance.name);
    if (!target?.model) return gone(decode.instance.name);
    const pair = new PairAttempt(
      attempt.generatedIds.map(({ length }) => length),
      (hear) => target.expect(attempt, hear),
      {
        onDelta,
        nowMs: () => this.#clock.nowMs(),
        onHandOff: (ms) => {
          this.#handOffMs.push(ms);
          onHandOff(ms);
        },
      },
    );
    const source = await connection.submit(attempt, (delta) => pair.hearSource(delta));
    if (isRefusal(source)) {
      pair.notAdmitted();
      return source;
    }
    pair.admitted(source);
    return pair;
  }

  #route(routed: RoutedRequest, excluded: ReadonlySet<string>): RoutingDecision | null {
    const view = this.#pool.view();
    const request = this.#routingRequest(routed);
    const { numericsId } = routed;
    // Another kernel set promises no identical text: only where there is none of the first one's.
    const others = view.instances.filter((instance) => numericsId !== null && instance.numericsId !== numericsId);
    const alike = new Set([...excluded, ...others.map(({ name }) => name)]);
    const decision = this.#router.route(request, view, alike) ?? this.#router.route(request, view, excluded);
    if (decision) {
      const { instance, policy } = decision;
      const key = `${instance} ${policy}`;
      const count = (this.#decisions.get(key)?.count ?? 0) + 1;
      this.#decisions.set(key, { instance, policy, count });
    }
    return decision;
  }

  /** After everything that is lost with one instance has been told, so that it can be put in order. */
  #recoverSoon(): void {
    if (this.#waiting.size === 0) return;
    if (this.#recovering) clearTimeout(this.#recovering);
    this.#recovering = setTimeout(() => this.#recoverAll(), 0);
  }

  #recoverAll(): void {
    this.#recovering = null;
    const lost = [...this.#waiting].sort(([a], [b]) => byUrgency(a, b));
    this.#waiting.clear();
    for (const [routed, sinceMs] of lost) void this.#recoverOne(routed, sinceMs);
  }

  async #recoverOne(routed: RoutedRequest, sinceMs: number): Promise<void> {
    const refusal = await routed.redispatch();
    if (!refusal) {
      this.#numRecoveries++;
      return;
    }
    if (this.#clock.nowMs() - sinceMs < this.#options.recoveryWaitMs) {
      this.#waiting.set(routed, sinceMs);
      this.#recovering ??= setTimeout(() => this.#recoverAll(), RETRY_MS);
      return;
    }
    this.#numRecoveryFailures++;
    const message = 'the engine stopped while the request ran, and no other could take it over; it is safe to retry';
    routed.fail({ refused: 'engine_lost', message, retryAfterS: refusal.retryAfterS ?? 1 });
  }

  #routingRequest(routed: RoutedRequest): RoutingRequest {
    const { request, numContextTokens } = routed;
    let ids: Int32Array | null = null;
    const byRoot = new Map<BlockDigest, BlockDigest[]>();
    return {
      ordinal: routed.ordinal,
      model: request.model,
      numPromptTokens: numContextTokens,
      maxTokens: request.promptIds.length + request.maxTokens - numContextTokens,
      numSeqs: request.seeds.length,
      sessionKey: request.sessionKey,
      ttftSloMs: request.ttftSloMs || this.#options.targetTtftMs,
      tpotSloMs: request.tpotSloMs || this.#options.targetTpotMs,
      digestsFor: ({ model, numericsId, capacity: { blockTokens } }: InstanceView) => {
        const root = rootDigest({ model, numericsId, blockTokens, adapter: '', salt: request.cacheSalt });
        let digests = byRoot.get(root);
        if (!digests) {
          ids ??= routed.contextIds();
          digests = [];
          new BlockHasher(blockTokens).extend(digests, root, ids, ids.length);
          byRoot.set(root, digests);
        }
        return digests;
      },
    };
  }
}

function gone(name: string): Refusal {
  return { refused: 'engine_unavailable', message: `${name} is gone`, retryAfterS: 1 };
}

/** Online before offline, then by priority, then who has waited longer. */
function byUrgency(a: RoutedRequest, b: RoutedRequest): number {
  return (
    Number(a.request.offline) - Number(b.request.offline) ||
    a.request.priority - b.request.priority ||
    a.ordinal - b.ordinal
  );
}
