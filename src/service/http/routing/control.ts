// Owns the seam between the HTTP side and routing: what can be asked of it and changed while requests run.
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
}

export interface RoutingFigures {
  readonly decisions: readonly { readonly instance: string; readonly policy: string; readonly count: number }[];
  /** Hand-offs since the last call: milliseconds from the first token to the next one, of another instance. */
  takeHandOffMs(): number[];
  readonly numRecoveries: number;
  readonly numRecoveryFailures: number;
  /** Running mean of |predicted - measured| / measured of first tokens, per instance that has any. */
  readonly ttftErrors: readonly { readonly instance: string; readonly error: number }[];
}
