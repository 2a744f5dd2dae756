import { describe, expect, it } from 'vitest';
import { checkText, modelTable, scenarioRows } from './compare-report.ts';
import type { CompareResult, ModelResult, Sample, SystemResult } from './compare-result.ts';
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

const scenarios = [
  { id: 'decode', title: 'Decode', unit: 'tok/s' },
  { id: 'closed-8', title: 'Closed loop', unit: 'tok/s' },
];

const model: ModelResult = {
  name: 'm',
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

describe('scenarioRows', () => {
  it('takes medians, and the median of the ratios within each round', () => {
    expect(scenarioRows(model, scenarios)).toEqual([
      {
        title: 'Decode',
        unit: 'tok/s',
        medians: [205, 100], // of 100 110 300 500, and of 55 100 100
        ratios: [null, 2], // of 1 3 2: the round without a rival's figure is left out
        eventLoopUsPerStep: 101.5,
        numDisturbed: 1,
        numFailed: 1,
      },
    ]);
  });

  it('has no ratio where a system has no sample', () => {
    const alone = { ...model, samples: [sample('xllm', 0, 5)] };
    expect(scenarioRows(alone, scenarios)[0]).toMatchObject({ medians: [5, null], ratios: [null, null] });
  });
});

describe('modelTable', () => {
  it('marks a system that answers wrongly, and does not drop it', () => {
    const { header, rows } = modelTable(model, { scenarios } as CompareResult);
    expect(formatTable(header, rows, false)).toBe(
      [
        'scenario  unit   xllm  peer (WRONG)  xllm / peer  event loop, us/step  samples disturbed',
        'Decode    tok/s   205           100            2                101.5  1, 1 with failures',
        '',
      ].join('\n'),
    );
    expect(checkText(model.systems[1]!)).toBe('peer: WRONG at prompt 1, step 4: 6 instead of 5');
    expect(checkText(model.systems[0]!)).toBe('xllm: 40 reference tokens over 3 prompts, all equal');
    expect(checkText(system('x', { verdict: 'unchecked' }))).toMatch(/not checked/);
  });
});
