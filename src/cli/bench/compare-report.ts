// Owns what a comparison's samples add up to: medians per system, and ours over each peer's.
import type { CompareResult, ModelResult, Sample, SystemResult } from './compare-result.ts';
import { median } from './metrics.ts';
import type { Cell } from './table.ts';

export interface ScenarioRow {
  readonly title: string;
  readonly unit: string;
  /** Median over the rounds, in the order of the model's systems; null where a system has no sample. */
  readonly medians: readonly (number | null)[];
  /** Median over the rounds of (first system / this one); null for the first itself and where either has none. */
  readonly ratios: readonly (number | null)[];
  /** Median over the first system's rounds, in µs; null where it does not tell. */
  readonly eventLoopUsPerStep: number | null;
  /** Samples that no attempt found quiet. */
  readonly numDisturbed: number;
  readonly numFailed: number;
}

function medianOrNull(values: readonly number[]): number | null {
  return values.length === 0 ? null : median(values);
}

function valuesByRound(samples: readonly Sample[], scenario: string, system: string): Map<number, number> {
  const mine = samples.filter((sample) => sample.scenario === scenario && sample.system === system);
  return new Map(mine.flatMap(({ round, value }) => (value === null ? [] : [[round, value] as const])));
}

/** One row per scenario that has a sample; the first system is ours. */
export function scenarioRows(model: ModelResult, scenarios: CompareResult['scenarios']): ScenarioRow[] {
  return scenarios.flatMap(({ id, title, unit }) => {
    const samples = model.samples.filter((sample) => sample.scenario === id);
    if (samples.length === 0) return [];
    const bySystem = model.systems.map(({ name }) => valuesByRound(samples, id, name));
    const [ours = new Map<number, number>()] = bySystem;
    const ratios = bySystem.map((theirs, index) =>
      index === 0
        ? null
        : medianOrNull([...ours].flatMap(([round, value]) => (theirs.has(round) ? [value / theirs.get(round)!] : []))),
    );
    return [
      {
        title,
        unit,
        medians: bySystem.map((values) => medianOrNull([...values.values()])),
        ratios,
        eventLoopUsPerStep: medianOrNull(
          samples.flatMap((sample) =>
            sample.system !== model.systems[0]?.name || sample.eventLoopUsPerStep === null
              ? []
              : [sample.eventLoopUsPerStep],
          ),
        ),
        numDisturbed: samples.filter((sample) => sample.isDisturbed).length,
        numFailed: samples.filter((sample) => sample.numFailed > 0).length,
      },
    ];
  });
}

export function checkText({ name, check }: SystemResult): string {
  const { verdict, numTokens, numPrompts, difference } = check;
  if (verdict === 'unchecked') return `${name}: not checked: the reference is nowhere sure, or the weights are others`;
  if (difference === null) return `${name}: ${numTokens} reference tokens over ${numPrompts} prompts, all equal`;
  const { prompt, step, expected, got } = difference;
  return `${name}: WRONG at prompt ${prompt}, step ${step}: ${got ?? 'nothing'} instead of ${expected}`;
}

/** Header and rows of a model's table. */
export function modelTable(model: ModelResult, result: CompareResult): { header: string[]; rows: Cell[][] } {
  const [ours, ...peers] = model.systems;
  const isWrong = (system: SystemResult | undefined): boolean => system?.check.verdict === 'wrong';
  const mark = (system: SystemResult | undefined): string =>
    `${system?.name ?? '-'}${isWrong(system) ? ' (WRONG)' : ''}`;
  const header = [
    'scenario',
    'unit',
    mark(ours),
    ...peers.flatMap((peer) => [mark(peer), `${ours?.name ?? '-'} / ${peer.name}`]),
    'event loop, us/step',
    'samples disturbed',
  ];
  const rows = scenarioRows(model, result.scenarios).map((row): Cell[] => [
    row.title,
    row.unit,
    row.medians[0] ?? null,
    ...peers.flatMap((_, index) => [row.medians[index + 1] ?? null, row.ratios[index + 1] ?? null]),
    row.eventLoopUsPerStep,
    row.numFailed > 0 ? `${row.numDisturbed}, ${row.numFailed} with failures` : String(row.numDisturbed),
  ]);
  return { header, rows };
}
