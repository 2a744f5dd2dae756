// Owns the memory of what happened to recent requests and why: bounded, for GET /v1/requests/ID.
import type { Clock } from '../../common/clock.ts';

const maxRequests = 1_000;
const maxEvents = 64;

export interface RequestEvent {
  /** Milliseconds since the request arrived. */
  readonly atMs: number;
  readonly event:
    | 'routed'
    | 'admitted'
    | 'refused'
    | 'first_token'
    | 'handed_off'
    | 'lost'
    | 'moving'
    | 'moved'
    | 'finished'
    | 'failed'
    | 'cancelled';
  readonly attempt: number;
  readonly instance: string | null;
  readonly detail: Readonly<Record<string, unknown>>;
}

export interface LoggedRequest {
  readonly id: string;
  readonly model: string;
  readonly numPromptTokens: number;
  readonly maxTokens: number;
  readonly arrivalMs: number;
  readonly events: RequestEvent[];
  /** Events beyond the bound. */
  numDropped: number;
}

export class RequestLog {
  readonly #clock: Clock;
  /** By the engine's request id, oldest first. */
  readonly #requests = new Map<string, LoggedRequest>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  begin(id: string, facts: Pick<LoggedRequest, 'model' | 'numPromptTokens' | 'maxTokens'>): void {
    this.#requests.set(id, { id, ...facts, arrivalMs: this.#clock.nowMs(), events: [], numDropped: 0 });
    if (this.#requests.size <= maxRequests) return;
    const [oldest] = this.#requests.keys();
    if (oldest !== undefined) this.#requests.delete(oldest);
  }

  note(id: string, event: Omit<RequestEvent, 'atMs'>): void {
    const request = this.#requests.get(id);
    if (!request) return;
    if (request.events.length >= maxEvents) request.numDropped++;
    else request.events.push({ atMs: this.#clock.nowMs() - request.arrivalMs, ...event });
  }

  /** What one client request became: one entry per prompt. `id`: the client's id, or an engine's. */
  find(id: string): readonly LoggedRequest[] {
    const exact = this.#requests.get(id);
    if (exact) return [exact];
    const prefix = `${id}.`;
    return [...this.#requests.values()].filter(
      (request) => request.id.startsWith(prefix) && !request.id.slice(prefix.length).includes('.'),
    );
  }
}
