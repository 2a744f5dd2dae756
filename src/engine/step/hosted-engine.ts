// Owns what an engine process hosts, whatever it computes on.
import type { Clock } from '../../common/clock.ts';
import type { StepTimeModel } from '../../common/step-time.ts';
import { type LoadedEngine, loadEngine } from './load-engine.ts';
import { loadTimedEngine, type TimedEngineOptions } from './load-timed-engine.ts';
import { defaultProfile } from './timed-profile.ts';

export interface HostedEngine extends Omit<LoadedEngine, 'model'> {
  /** Ids that have a token. */
  readonly vocabSize: number;
  readonly stopTokenIds: readonly number[];
  /** What steps are taken to cost before any was measured. */
  readonly stepTime: StepTimeModel;
}

export interface HostedEngineOptions extends TimedEngineOptions {
  readonly device: 'cpu' | 'timed';
}

/** Throws XllmError when the model cannot be loaded. */
export async function openEngine(
  options: HostedEngineOptions,
  clock: Clock,
  onWarning: (text: string) => void,
): Promise<HostedEngine> {
  if (options.device === 'timed') return loadTimedEngine(options, clock);
  const engine = await loadEngine(options, clock, onWarning);
  const { numIds, stopTokenIds } = engine.model.config;
  return {
    ...engine,
    vocabSize: numIds,
    stopTokenIds,
    // Of another model perhaps, but of the right order for a first guess; the first steps correct it.
    stepTime: defaultProfile.stepTime,
  };
}
