import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { EngineDelta } from '../../engine-client.ts';
import type { StreamDecoder } from '../../text/text-service.ts';
import { Choice, numCodePoints } from './choice.ts';
import { foldEvents } from './events.ts';

const STOP_TOKEN = 999;

function byteDecoder(): StreamDecoder {
  const utf8 = new TextDecoder();
  return {
    push: (id) => (id === STOP_TOKEN ? '<stop>' : utf8.decode(Uint8Array.of(id), { stream: true })),
    flush: () => utf8.decode(),
  };
}

function deltaOf(tokenIds: readonly number[], finish: EngineDelta['finish']): EngineDelta {
  return {
    choice: 0,
    tokenIds: Int32Array.from(tokenIds),
    numBefore: 0,
    logprobs: tokenIds.map((tokenId) => ({
      tokenId,
      logprob: -1,
      rank: 1,
      topIds: new Int32Array(0),
      topLogprobs: new Float32Array(0),
    })),
    promptLogprobs: [],
    finish,
    stopTokenId: tokenIds.at(-1) === STOP_TOKEN ? STOP_TOKEN : null,
    numCachedTokens: null,
    queueMs: null,
    prefillMs: null,
    numPreemptions: 0,
    error: null,
  };
}

interface Setting {
  readonly stops: readonly string[];
  readonly includeStop: boolean;
  readonly minTokens: number;
}

/** Everything that a choice says about `tokenIds` when they come cut at `cuts`. */
function runCut(tokenIds: readonly number[], finish: 'stop' | 'length', cuts: readonly number[], setting: Setting) {
  const choice = new Choice(0, {
    decoder: byteDecoder(),
    stopTokenIds: new Set([STOP_TOKEN]),
    wantsLogprobs: true,
    textOffset: 0,
    ...setting,
  });
  const borders = [...new Set([0, ...cuts.map((cut) => cut % (tokenIds.length + 1)), tokenIds.length])].sort(
    (a, b) => a - b,
  );
  const events = [];
  for (let i = 0; i + 1 < borders.length && !choice.finish; i++) {
    const isLast = i + 2 === borders.length;
    events.push(choice.accept(deltaOf(tokenIds.slice(borders[i], borders[i + 1]), isLast ? finish : null)));
  }
  return { ...foldEvents(events), numTokens: choice.numTokens, sizes: events.map(({ text }) => text) };
}

describe('Choice', () => {
  test('says the same however its tokens are cut into deltas', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', 'é', '🗼'), minLength: 1, maxLength: 30 });
    const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'é'), minLength: 1, maxLength: 3 }), {
      maxLength: 3,
    });
    fc.assert(
      fc.property(
        fc.record({ text, stops, includeStop: fc.boolean(), minTokens: fc.nat(5), endsWithStop: fc.boolean() }),
        fc.array(fc.nat(60), { maxLength: 8 }),
        ({ text, endsWithStop, ...setting }, cuts) => {
          const tokenIds = [...Buffer.from(text), ...(endsWithStop ? [STOP_TOKEN] : [])];
          const finish = endsWithStop ? 'stop' : 'length';
          const { sizes: _, ...whole } = runCut(tokenIds, finish, [], setting);
          const { sizes: texts, ...cut } = runCut(tokenIds, finish, cuts, setting);
          expect(cut).toEqual(whole);
          // Never half a character.
          for (const part of texts) expect(part.isWellFormed() && !part.includes('\ufffd')).toBe(true);
          expect(cut.numTokens).toBe(cut.tokenIds.length);
          expect(cut.logprobs).toHaveLength(cut.tokenIds.length);
          expect(cut.textOffsets).toHaveLength(cut.tokenIds.length);
          expect(cut.finish).not.toBeNull();
          if (setting.minTokens === 0 && !setting.includeStop)
            for (const stop of setting.stops) expect(cut.text.includes(stop)).toBe(false);
        },
      ),
      { seed: 7, numRuns: process.env.XLLM_TEST_FULL ? 5000 : 300 },
    );
  });

  test('offsets count characters before the token', () => {
    const { textOffsets, text } = runCut([...Buffer.from('aé🗼b')], 'length', [], {
      stops: [],
      includeStop: false,
      minTokens: 0,
    });
    expect(text).toBe('aé🗼b');
    expect(textOffsets).toEqual([0, 1, 1, 2, 2, 2, 2, 3]);
  });

  test('an incomplete character at the end becomes U+FFFD', () => {
    expect(runCut([0x61, 0xf0, 0x9f], 'length', [], { stops: [], includeStop: false, minTokens: 0 }).text).toBe(
      'a\ufffd',
    );
  });
});

test('numCodePoints', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom('a', 'é', '🗼', '\ud83d', '\udfff') }), (text) => {
      expect(numCodePoints(text)).toBe(Array.from(text).length);
    }),
  );
});
