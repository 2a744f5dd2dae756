import { expect, test } from 'vitest';
import type { ChoiceEvent } from './events.ts';
import { chatLogprobs, completionLogprobs } from './logprobs.ts';

const event: ChoiceEvent = {
  choice: 0,
  text: 'ab',
  tokenIds: Int32Array.of(1, 2),
  numEchoed: 1,
  logprobs: [
    null,
    {
      tokenId: 2,
      logprob: Number.NEGATIVE_INFINITY,
      rank: 4,
      topIds: Int32Array.of(7, 8, 9),
      topLogprobs: Float32Array.of(-0.5, -1, -2),
    },
  ],
  textOffsets: [0, 1],
  finish: null,
};
const names: Readonly<Record<number, string>> = { 1: 'a', 2: 'b', 7: 'x', 8: 'x', 9: 'y' };
const nameOf = (id: number) => ({ text: names[id] ?? '?', bytes: [id] });

test('chat: the alternatives asked for, infinity as OpenAI writes it', () => {
  expect(chatLogprobs(event, 2, nameOf)).toEqual({
    content: [
      {
        token: 'b',
        logprob: -9999,
        bytes: [2],
        top_logprobs: [
          { token: 'x', logprob: -0.5, bytes: [7] },
          { token: 'x', logprob: -1, bytes: [8] },
        ],
      },
    ],
    refusal: null,
  });
});

test('completions: the chosen token on top of the alternatives, the likeliest of equal spelling', () => {
  expect(completionLogprobs(event, 3, nameOf)).toEqual({
    tokens: ['a', 'b'],
    token_logprobs: [null, -9999],
    top_logprobs: [null, { b: -9999, x: -0.5, y: -2 }],
    text_offset: [0, 1],
  });
});
