import { describe, expect, it } from 'vitest';
import { checkText, contenders, figureRows, modelTable } from './compare-report.ts';
import type { ModelResult, Sample, SystemResult } from './compare-result.ts';
import { formatTable } from './table.ts';

function sample(system: string, round: number, value: number | null, more: Partial<Sample> = {}): Sample {
  return {
    scenario: 'decode',
    system,
    round,
    value,
    numFailed: 0,
    ttftMs: 1,
    tpotMs: 1,
    numWaves: null,
    eventLoopUsPerStep: system === 'xllm' ? 100 + round : null,
    foreignCores: 0,
    isDisturbed: false,
    ...more,
  };
}

function system(name: string, check: Partial<SystemResult['check']> = {}): SystemResult {
  return {
    name,
    version: '1',
    notes: [],
    commands: { single: name, batch: name },
    check: { verdict: 'right', numPrompts: 3, numTokens: 40, difference: null, ...check },
  };
}

const load = { concurrency: 1, numPrompt: 1, numOutput: 2, meanContext: 0 };
const scenarios = [
  { id: 'decode', title: 'Decode', unit: 'tok/s', load },
  { id: 'closed-8', title: 'Closed loop', unit: 'tok/s', load },
  { id: 'closed-16', title: 'Closed loop', unit: 'tok/s', load },
];
const roofline = { threads: 2, memoryReadGBs: 1, int8Gops: 1, bf16Gflops: null, f32Gflops: 1 };

const model: ModelResult = {
  name: 'm',
  spec: 'm',
  skipped: [],
  work: { weightBytes: 1e6, layerElements: 1e6, headElements: 1e6, kvBytesPerToken: 0, isQuantised: true },
  file: 'm.gguf',
  bytes: 1,
  sha256: '',
  reference: '',
  systems: [
    system('xllm'),
    system('peer', { verdict: 'wrong', difference: { prompt: 1, step: 4, expected: 5, got: 6 } }),
  ],
  samples: [
    sample('xllm', 0, 100),
    sample('peer', 0, 100),
    sample('xllm', 1, 300, { isDisturbed: true }),
    sample('peer', 1, 100),
    sample('xllm', 2, 110),
    sample('peer', 2, 55),
    sample('xllm', 3, 500),
    sample('peer', 3, null, { numFailed: 2 }),
  ],
  numRejected: 5,
};

describe('figureRows', () => {
  it('takes medians, and the median of the ratios within each round', () => {
    expect(figureRows(model, { scenarios, roofline })).toEqual([
      {
        id: 'decode',
        scenarioIds: ['decode'],
        title: 'Decode',
        unit: 'tok/s',
        medians: [205, 100], // of 100 110 300 500, and of 55 100 100
        bestPeer: 'peer',
        ratio: 2, // of 1 3 2: the round without a rival's figure is left out
        eventLoopUsPerStep: 101.5,
        leastWaves: null,
        // 2 tokens: 2 x 2 x 1e6 + 2 x 2 x 1e6 operations; 2 readings of 1e6 bytes.
        bounds: { product: 250, memory: 1000 },
        numDisturbed: 1,
        numFailed: 1,
      },
    ]);
  });

  it('has no ratio where no peer has a sample, and no bounds without a roofline', () => {
    const alone = { ...model, samples: [sample('xllm', 0, 5)] };
    expect(figureRows(alone, { scenarios, roofline: null })[0]).toMatchObject({
      medians: [5, null],
      bestPeer: null,
      ratio: null,
      bounds: null,
    });
  });

  const closed = (system: string, round: number, id: string, value: number, tpotMs: number) =>
    sample(system, round, value, { scenario: id, tpotMs, numWaves: value / 100 });

  it('relates ours to the best of several peers, round by round', () => {
    const systems = [system('xllm'), system('a'), system('b')];
    const samples = [
      sample('xllm', 0, 100),
      sample('a', 0, 50),
      sample('b', 0, 20),
      sample('xllm', 1, 90),
      sample('a', 1, 30),
    ];
    expect(figureRows({ ...model, systems, samples }, { scenarios, roofline })[0]).toMatchObject({
      medians: [95, 40, 20],
      bestPeer: 'a',
      ratio: 2.5,
    });
  });

  it('finds the best closed loop under a limit of TPOT', () => {
    const samples = [
      closed('xllm', 0, 'closed-8', 400, 20),
      closed('xllm', 0, 'closed-16', 600, 60),
      closed('peer', 0, 'closed-8', 100, 80),
      closed('peer', 0, 'closed-16', 200, 120),
    ];
    const rows = figureRows({ ...model, samples }, { scenarios, roofline });
    expect(rows.map(({ id, medians, ratio }) => [id, ...medians, ratio])).toEqual([
      ['closed-8', 400, 100, 4],
      ['closed-16', 600, 200, 3],
      ['tpot-50', 400, null, null],
      ['tpot-100', 600, 100, 6],
    ]);
    expect(rows[3]?.scenarioIds).toEqual(['closed-8', 'closed-16']);
    expect(rows.map(({ leastWaves }) => leastWaves)).toEqual([1, 2, 4, 1]);
  });

  it('measures again what decides a row: the best peers, and those near them', () => {
    const systems = [system('xllm'), system('a'), system('b'), system('c')];
    const samples = [
      closed('xllm', 0, 'closed-8', 900, 1),
      closed('a', 0, 'closed-8', 100, 200),
      closed('b', 0, 'closed-8', 71, 200),
      closed('c', 0, 'closed-8', 30, 90), // the only one under 100 ms
      closed('c', 0, 'closed-16', 10, 200),
      closed('b', 0, 'closed-16', 40, 200),
    ];
    expect(contenders({ ...model, systems, samples }, scenarios)).toEqual(
      new Set(['closed-8 a', 'closed-8 b', 'closed-8 c', 'closed-16 b']),
    );
  });
});

describe('modelTable', () => {
  it('marks a system that answers wrongly, and does not drop it', () => {
    const { header, rows } = modelTable(model, { scenarios, roofline });
    expect(formatTable(header, rows, false)).toBe(
      [
        'scenario  unit   xllm  peer (WRONG)  best peer  ratio  event loop, us/step  samples disturbed',
        'Decode    tok/s   205           100  peer           2                101.5  1, 1 with failures',
        '',
      ].join('\n'),
    );
    expect(checkText(model.systems[1]!)).toBe('peer: WRONG at prompt 1, step 4: 6 instead of 5');
    expect(checkText(model.systems[0]!)).toBe('xllm: 40 reference tokens over 3 prompts, all equal');
    expect(checkText(system('x', { verdict: 'unchecked' }))).toMatch(/not checked/);
  });
});
