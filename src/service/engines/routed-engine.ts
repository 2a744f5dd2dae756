// Owns the engines as one EngineClient: routes each request, brings lost ones elsewhere, the urgent ones first.
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
import { canServe } from '../registry/groups.ts';
import type { PolicyName } from '../routing/policies.ts';
import { Router, type RoutingDecision } from '../routing/router.ts';
import { Balancer } from './balancer.ts';
import type { Attempt, EngineConnection } from './engine-connection.ts';
import { Moves } from './moves.ts';
import { type LoggedRequest, RequestLog } from './request-log.ts';
import { RoutedRequest, type RoutingHost } from './routed-request.ts';
import { routingRequestOf } from './routing-request.ts';
import { type AttemptEvents, type AttemptHandle, RunningAttempt } from './running-attempt.ts';

export interface RoutingOptions {
  readonly policy: PolicyName;
  /** Objectives of requests that state none, for policies that look at them. */
  readonly targetTtftMs: number;
  readonly targetTpotMs: number;
  /** How long a lost request waits for an instance where there is none; 0: it fails at once. */
  readonly recoveryWaitMs: number;
  /** Running requests move where a decode step of one instance takes so many times as long as another's; 0: never. */
  readonly balanceMargin: number;
}

export const defaultRouting: RoutingOptions = {
  policy: 'cache-aware',
  targetTtftMs: 1_000,
  targetTpotMs: 50,
  recoveryWaitMs: 0,
  balanceMargin: 0,
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
  /** Calls back whenever an instance has begun to drain. Returns what ends it. */
  onDraining(listener: (instance: string) => void): () => void;
  /** Tells an instance to take nothing new and to leave when it is empty. Rejects when it cannot be told. */
  drain(instance: string): Promise<void>;
}

export class RoutedEngine implements EngineClient, RoutingControl {
  readonly #pool: RoutedInstances;
  readonly #clock: Clock;
  readonly #options: RoutingOptions;
  readonly #router: Router;
  readonly #log: RequestLog;
  readonly #running = new Set<RoutedRequest>();
  readonly #host: RoutingHost;
  readonly #stopsListening: readonly (() => void)[];
  readonly #moves: Moves<RoutedRequest>;
  readonly #balancer: Balancer | null;
  readonly #moveListeners = new Set<(pauseMs: number | null) => void>();
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
  #numMigrations = 0;

  constructor(pool: RoutedInstances, clock: Clock, options: RoutingOptions) {
    this.#pool = pool;
    this.#clock = clock;
    this.#options = options;
    this.#router = new Router(options.policy);
    this.#log = new RequestLog(clock);
    this.#moves = new Moves({
      draining: () => pool.view().instances.flatMap(({ name, isDraining }) => (isDraining ? [name] : [])),
      running: () => [...this.#running].sort(byUrgency),
    });
    const balanced = { view: () => pool.view(), running: () => this.#running };
    this.#balancer = options.balanceMargin > 0 ? new Balancer(balanced, options.balanceMargin) : null;
    this.#stopsListening = [pool.onAvailable(() => this.#recoverSoon()), pool.onDraining(() => this.#moves.wake())];
    this.#host = {
      nowMs: () => clock.nowMs(),
      route: (routed, excluded, only) => this.#route(routed, excluded, only),
      follow: (routed, source, excluded, only) => {
        const view = pool.view();
        const from = view.instances.find(({ name }) => name === source);
        const request = routingRequestOf(routed, options);
        return from ? this.#router.follow(request, view, from, { excluded, only }) : null;
      },
      submit: (decision, attempt, events) => this.#submitTo(decision, attempt, events),
      handedOff: (ms) => this.#handOffMs.push(ms),
      recover: (routed) => {
        this.#waiting.set(routed, clock.nowMs());
        this.#recoverSoon();
      },
      note: (routed, event) => this.#log.note(routed.request.requestId, event),
      measured: ({ instance, chosen, candidates }, ttftMs) => {
        // With one candidate nothing was looked up, and nothing depends on it.
        if (candidates.length > 1) this.#router.correction.observe(instance, chosen.ttftMs, ttftMs);
      },
      moved: (_, pauseMs) => {
        this.#numMigrations++;
        for (const listener of this.#moveListeners) listener(pauseMs);
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
      numMigrations: this.#numMigrations,
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

  onMoved(listener: (pauseMs: number | null) => void): () => void {
    this.#moveListeners.add(listener);
    return () => this.#moveListeners.delete(listener);
  }

  async drain(name: string, force: boolean): Promise<Refusal | null> {
    const { instances } = this.#pool.view();
    const instance = instances.find((candidate) => candidate.name === name);
    if (!instance) {
      const known = instances.map((candidate) => candidate.name).join(', ') || 'none';
      return { refused: 'not_found', message: `There is no instance ${name}; known: ${known}.` };
    }
    if (instance.isDraining) return null;
    const others = instances.filter((candidate) => candidate !== instance);
    if (!force && instance.isSchedulable && !canServe(others, instance.model)) {
      const message = `Without ${name} nothing can serve ${instance.model}: start another instance first, or force it.`;
      return { refused: 'last_instance', message };
    }
    try {
      await this.#pool.drain(name);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return { refused: 'engine_unavailable', message: `${name} cannot be told: ${reason}.`, retryAfterS: 1 };
    }
    return null;
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
    for (const stop of this.#stopsListening) stop();
    this.#moves.close();
    this.#balancer?.close();
    if (this.#recovering) clearTimeout(this.#recovering);
    const error: Refusal = { refused: 'engine_unavailable', message: 'the service closes', retryAfterS: 1 };
    for (const routed of this.#running) routed.fail(error);
  }

  async #submitTo(
    { instance, decode }: RoutingDecision,
    attempt: Attempt,
    { onDelta, onGoneOn }: AttemptEvents,
  ): Promise<AttemptHandle | Refusal> {
    const connection = this.#pool.connection(instance);
    if (!connection?.model) return gone(instance);
    const running = new RunningAttempt({
      instance,
      numBefore: attempt.generatedIds.map(({ length }) => length),
      onDelta,
      onGoneOn,
      nowMs: () => this.#clock.nowMs(),
      expectAt: (name, hear) => {
        const target = this.#pool.connection(name);
        return target?.model ? target.expect(attempt, hear) : null;
      },
    });
    if (decode && !running.expectAt(decode.instance)) return gone(decode.instance.name);
    const leg = await connection.submit(attempt, running.hear);
    if (isRefusal(leg)) {
      running.notAdmitted();
      return leg;
    }
    running.admitted(leg);
    return running;
  }

  #route(routed: RoutedRequest, excluded: ReadonlySet<string>, only?: string): RoutingDecision | null {
    const whole = this.#pool.view();
    const isWanted = ({ name }: InstanceView) => only === undefined || name === only;
    const view = { ...whole, instances: whole.instances.filter(isWanted) };
    const request = routingRequestOf(routed, this.#options);
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
