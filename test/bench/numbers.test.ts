import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { readResults, renderNumbers } from '../../scripts/docs-numbers.ts';

describe('docs/numbers.md', () => {
  it('is what its results render to: run `node scripts/docs-numbers.ts` after a new one', () => {
    const text = readFileSync(new URL('../../docs/numbers.md', import.meta.url), 'utf8');
    expect(text).toBe(renderNumbers(readResults()));
  });

  it('tells machine, commit, command, figures, and what was wrong', () => {
    const check = { verdict: 'right', numPrompts: 2, numTokens: 50, difference: null } as const;
    const system = { version: '1', notes: [], commands: { single: 'a', batch: 'serve it' }, check };
    const quiet = {
      round: 0,
      numFailed: 0,
      ttftMs: 1,
      tpotMs: 1,
      numWaves: null,
      eventLoopUsPerStep: null,
      foreignCores: 0,
      isDisturbed: false,
    };
    const text = renderNumbers([
      {
        name: 'epyc.json',
        result: {
          kind: 'compare',
          date: '2030-01-02T03:04:05Z',
          build: 'xllm-ts/0.1.0',
          commit: 'abcdef',
          machine: { cpu: 'EPYC', cores: 2, memoryGiB: 24, features: ['avx2'], os: 'Linux 6', node: 'v24.0.0' },
          command: 'xllm bench compare',
          threads: 2,
          rounds: 3,
          maxForeignCores: 0.1,
          sampleS: 20,
          roofline: { threads: 2, memoryReadGBs: 50, int8Gops: 900, bf16Gflops: null, f32Gflops: 200 },
          isPartial: false,
          scenarios: [
            {
              id: 'decode',
              title: 'Decode',
              unit: 'tok/s',
              load: { concurrency: 1, numPrompt: 1, numOutput: 100, meanContext: 0 },
            },
          ],
          models: [
            {
              name: 'tiny',
              spec: 'smollm2-135m-instruct',
              work: { weightBytes: 1e8, layerElements: 1e8, headElements: 0, kvBytesPerToken: 0, isQuantised: true },
              skipped: [{ name: 'third', reason: 'it has no such format' }],
              file: 'tiny.gguf',
              bytes: 2 ** 20,
              sha256: '0123456789abcdef0123',
              reference: 'golden',
              systems: [
                { ...system, name: 'xllm' },
                {
                  ...system,
                  name: 'other',
                  notes: ['requantised'],
                  check: { ...check, verdict: 'wrong', difference: { prompt: 1, step: 2, expected: 3, got: 4 } },
                },
              ],
              samples: [
                { ...quiet, scenario: 'decode', system: 'xllm', value: 150 },
                { ...quiet, scenario: 'decode', system: 'other', value: 100 },
              ],
              numRejected: 4,
            },
          ],
        },
      },
    ]);
    expect(text).toContain('## epyc');
    expect(text).toContain('| machine | EPYC, 2 cores, 24 GiB, avx2 |');
    expect(text).toContain('commit abcdef');
    expect(text).toContain('| roofline | 50.0 GB/s read, 900 int8 GOPS on 2 threads |');
    // 100 tokens take 100 readings of 1e8 bytes, or 2 x 1e8 operations each.
    expect(text).toContain(
      '| Decode | tok/s | 150 | 100 | other | 1.50 | 2.20 | 4500 | 500 | 30 % | - | - | 0 | decode |',
    );
    expect(text).toContain('`xllm bench compare --models smollm2-135m-instruct --scenarios`');
    expect(text).toContain('| other (WRONG) |');
    expect(text).toContain('- third: left out: it has no such format');
    expect(text).toContain(
      '- other 1 (requantised): `serve it`; one stream: `a`\n  - other: WRONG at prompt 1, step 2: 4 instead of 3',
    );
    expect(text).toContain('4 samples were rejected.');
  });
});
