// Owns the translation of command line options into routing's configuration.
import type { RoutingOptions } from '../service/engines/routed-engine.ts';
import type { ServiceOptions } from './config/options.ts';

type Options = Pick<
  ServiceOptions,
  'routingPolicy' | 'targetTtftMs' | 'targetTpotMs' | 'recoveryWaitS' | 'balanceMargin'
>;

const DEFAULT_WAIT_S = 30;

/** `isAlone`: one instance only, so that there is no other to wait for. */
export function routingOf(options: Options, isAlone: boolean): RoutingOptions {
  const { routingPolicy, targetTtftMs, targetTpotMs, recoveryWaitS, balanceMargin } = options;
  const waitS = recoveryWaitS ?? (isAlone ? 0 : DEFAULT_WAIT_S);
  return { policy: routingPolicy, targetTtftMs, targetTpotMs, recoveryWaitMs: waitS * 1_000, balanceMargin };
}
