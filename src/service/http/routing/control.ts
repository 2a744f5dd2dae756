// Owns the seam between the HTTP side and routing: what can be asked of it and changed while requests run.
import type { Refusal } from '../../../common/errors.ts';
import type { PolicyName } from '../../routing/policies.ts';

export interface RoutedEvent {
  readonly atMs: number;
  readonly event: string;
  readonly attempt: number;
  readonly instance: string | null;
  readonly detail: Readonly<Record<string, unknown>>;
}

/** What one prompt of a client's request went through. */
export interface RoutedLife {
  readonly id: string;
  readonly model: string;
  readonly numPromptTokens: number;
  readonly maxTokens: number;
  readonly events: readonly RoutedEvent[];
  readonly numDropped: number;
}

export interface RoutingControl {
  policy: PolicyName;
  /** By the client's request id; empty: it is not known, or not any more. */
  explain(id: string): readonly RoutedLife[];
  readonly figures: RoutingFigures;
  /**
   * Tells an instance to take nothing new; what runs there moves elsewhere, and it leaves. null: it does, or did
   * already. `force`: also where nothing else can serve its model; what runs there then ends there.
   */
  drain(instance: string, force: boolean): Promise<Refusal | null>;
  /** Calls back when a request goes on elsewhere, with the pause after its last token; null: it had none yet. */
  onMoved(listener: (pauseMs: number | null) => void): () => void;
}

export interface RoutingFigures {
  readonly decisions: readonly { readonly instance: string; readonly policy: string; readonly count: number }[];
  /** Hand-offs since the last call: milliseconds from the first token to the next one, of another instance. */
  takeHandOffMs(): number[];
  readonly numRecoveries: number;
  readonly numRecoveryFailures: number;
  /** Requests that a living instance has handed on. */
  readonly numMigrations: number;
  /** Running mean of |predicted - measured| / measured of first tokens, per instance that has any. */
  readonly ttftErrors: readonly { readonly instance: string; readonly error: number }[];
}
