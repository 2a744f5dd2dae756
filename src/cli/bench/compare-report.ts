// Owns what a comparison's samples add up to: medians per system, ours over the best peer's, and the bounds.
import type { CompareResult, ModelResult, Sample, SystemResult } from './compare-result.ts';
import { median } from './metrics.ts';
import { isClosedLoop, type LimitedRow, limitedRows } from './scenarios.ts';
import type { Cell } from './table.ts';
import { type BoundedLoad, type Bounds, boundsOf } from './work.ts';

export interface FigureRow {
  /** A scenario's, or that of a row made from several. */
  readonly id: string;
  /** What to run for this row. */
  readonly scenarioIds: readonly string[];
  readonly title: string;
  readonly unit: string;
  /** Median over the rounds, in the order of the model's systems; null where a system has no sample. */
  readonly medians: readonly (number | null)[];
  /** The system with the best median but for the first, which is ours. */
  readonly bestPeer: string | null;
  /** Median over the rounds of ours over the best peer's of that round. */
  readonly ratio: number | null;
  /** Median over our rounds, in µs; null where it does not tell. */
  readonly eventLoopUsPerStep: number | null;
  /** Of the shortest sample of a closed loop: completions per place; null for other rows. */
  readonly leastWaves: number | null;
  /** null where no roofline was measured. */
  readonly bounds: Bounds | null;
  /** Samples that no attempt found quiet. */
  readonly numDisturbed: number;
  readonly numFailed: number;
}

/** The samples that a row is made of, one per round and system: of a scenario, or the best that keep a limit. */
interface RowSource {
  readonly id: string;
  readonly title: string;
  readonly unit: string;
  readonly scenarioIds: readonly string[];
  readonly samples: readonly Sample[];
}

function medianOrNull(values: readonly number[]): number | null {
  return values.length === 0 ? null : median(values);
}

function leastOrNull(values: readonly number[]): number | null {
  return values.length === 0 ? null : Math.min(...values);
}

function bestUnderLimit(samples: readonly Sample[], { tpotMs: limit }: LimitedRow): Sample[] {
  const kept = samples.filter(
    ({ scenario, value, tpotMs }) => isClosedLoop(scenario) && value !== null && tpotMs !== null && tpotMs <= limit,
  );
  const groups = Map.groupBy(kept, ({ system, round }) => `${round} ${system}`);
  return [...groups.values()].map((group) => group.reduce((best, one) => (one.value! > best.value! ? one : best)));
}

function rowSources({ samples }: ModelResult, scenarios: CompareResult['scenarios']): RowSource[] {
  const plain = scenarios.map(({ id, title, unit }) => ({
    id,
    title,
    unit,
    scenarioIds: [id],
    samples: samples.filter((sample) => sample.scenario === id),
  }));
  const closed = scenarios.map(({ id }) => id).filter(isClosedLoop);
  const limited = limitedRows.map((row) => ({
    id: row.id,
    title: row.title,
    unit: row.unit,
    scenarioIds: closed,
    samples: bestUnderLimit(samples, row),
  }));
  return [...plain, ...limited].filter((source) => source.samples.length > 0);
}

/** One row per scenario that has a sample, and those made from several. */
export function figureRows(model: ModelResult, result: Pick<CompareResult, 'scenarios' | 'roofline'>): FigureRow[] {
  const [ours, ...peers] = model.systems.map(({ name }) => name);
  return rowSources(model, result.scenarios).map((source) => {
    const valuesOf = (system: string): number[] =>
      source.samples.flatMap((sample) => (sample.system === system && sample.value !== null ? [sample.value] : []));
    const medians = model.systems.map(({ name }) => medianOrNull(valuesOf(name)));
    const best = peers.reduce<number | null>((leader, _, index) => {
      const value = medians[index + 1] ?? null;
      return value !== null && (leader === null || value > (medians[leader] ?? 0)) ? index + 1 : leader;
    }, null);
    const mine = source.samples.filter(({ system }) => system === ours);
    return {
      id: source.id,
      scenarioIds: source.scenarioIds,
      title: source.title,
      unit: source.unit,
      medians,
      bestPeer: best === null ? null : (model.systems[best]?.name ?? null),
      ratio: medianOrNull(ratiosByRound(source.samples, ours ?? '')),
      eventLoopUsPerStep: medianOrNull(
        mine.flatMap(({ eventLoopUsPerStep }) => (eventLoopUsPerStep === null ? [] : [eventLoopUsPerStep])),
      ),
      leastWaves: leastOrNull(source.samples.flatMap(({ numWaves }) => (numWaves === null ? [] : [numWaves]))),
      bounds: boundsOfRow(mine, model, result),
      numDisturbed: source.samples.filter(({ isDisturbed }) => isDisturbed).length,
      numFailed: source.samples.filter(({ numFailed }) => numFailed > 0).length,
    };
  });
}

function ratiosByRound(samples: readonly Sample[], ours: string): number[] {
  return [...Map.groupBy(samples, ({ round }) => round).values()].flatMap((group) => {
    const values = group.filter(({ value }) => value !== null);
    const mine = values.find(({ system }) => system === ours)?.value;
    const theirs = values.filter(({ system }) => system !== ours).map(({ value }) => value!);
    return mine === undefined || mine === null || theirs.length === 0 ? [] : [mine / Math.max(...theirs)];
  });
}

/** Of the load that our median sample ran. */
function boundsOfRow(
  mine: readonly Sample[],
  { work }: ModelResult,
  { scenarios, roofline }: Pick<CompareResult, 'scenarios' | 'roofline'>,
): Bounds | null {
  const middle = mine.toSorted((a, b) => (a.value ?? 0) - (b.value ?? 0))[mine.length >> 1];
  const load: BoundedLoad | undefined = scenarios.find(({ id }) => id === middle?.scenario)?.load;
  return load === undefined || roofline === null ? null : boundsOf(work, load, roofline);
}

/** Peers this near to the best of a row are measured again in every round; the others' first figure stands. */
const CONTENDER_SHARE = 0.7;

/**
 * Which samples of peers, as `scenario system`, decide a row: those of the best peer and of the ones near it. `samples`
 * are the first round's.
 */
export function contenders(model: ModelResult, scenarios: CompareResult['scenarios']): ReadonlySet<string> {
  const ours = model.systems[0]?.name;
  return new Set(
    rowSources(model, scenarios).flatMap(({ samples }) => {
      const theirs = samples.filter(({ system, value }) => system !== ours && value !== null);
      const best = Math.max(...theirs.map(({ value }) => value!));
      return theirs
        .filter(({ value }) => value! >= CONTENDER_SHARE * best)
        .map(({ scenario, system }) => contenderKey(scenario, system));
    }),
  );
}

export const contenderKey = (scenario: string, system: string): string => `${scenario} ${system}`;

export function checkText({ name, check }: SystemResult): string {
  const { verdict, numTokens, numPrompts, difference } = check;
  if (verdict === 'unchecked') return `${name}: not checked: the reference is nowhere sure, or the weights are others`;
  if (difference === null) return `${name}: ${numTokens} reference tokens over ${numPrompts} prompts, all equal`;
  const { prompt, step, expected, got } = difference;
  return `${name}: WRONG at prompt ${prompt}, step ${step}: ${got ?? 'nothing'} instead of ${expected}`;
}

/** How tables name a system: one that answers wrongly is marked, and counts all the same. */
export function markedName({ name, check }: SystemResult): string {
  return `${name}${check.verdict === 'wrong' ? ' (WRONG)' : ''}`;
}

/** Header and rows of a model's table. */
export function modelTable(
  model: ModelResult,
  result: Pick<CompareResult, 'scenarios' | 'roofline'>,
): { header: string[]; rows: Cell[][] } {
  const header = [
    'scenario',
    'unit',
    ...model.systems.map(markedName),
    'best peer',
    'ratio',
    'event loop, us/step',
    'samples disturbed',
  ];
  const rows = figureRows(model, result).map((row): Cell[] => [
    row.title,
    row.unit,
    ...row.medians,
    row.bestPeer ?? '-',
    row.ratio,
    row.eventLoopUsPerStep,
    disturbedText(row),
  ]);
  return { header, rows };
}

export function disturbedText({ numDisturbed, numFailed }: FigureRow): string {
  return numFailed > 0 ? `${numDisturbed}, ${numFailed} with failures` : String(numDisturbed);
}
