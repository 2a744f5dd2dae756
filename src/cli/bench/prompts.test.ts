import { describe, expect, it } from 'vitest';
import { fileRequests, idPrompts, randomRequests, textPrompts } from './prompts.ts';
import { seededRandom } from './random.ts';

const load = { count: 200, inputLen: 40, outputLen: 10, rangeRatio: 0, prefixLen: 0 };

describe('randomRequests', () => {
  it('draws plain token ids of the wanted number', () => {
    const requests = randomRequests(load, idPrompts(seededRandom(1), 2000), seededRandom(2));
    expect(requests).toHaveLength(200);
    for (const { prompt, promptTokens, maxTokens } of requests) {
      expect([prompt.length, promptTokens, maxTokens]).toEqual([40, 40, 10]);
      for (const id of prompt as number[]) expect(id >= 1000 && id < 2000).toBe(true);
    }
  });

  it('varies lengths within the range, both ends reached', () => {
    const requests = randomRequests(
      { ...load, count: 2000, rangeRatio: 0.25 },
      idPrompts(seededRandom(1), 2000),
      seededRandom(2),
    );
    const lengths = requests.map((request) => request.promptTokens);
    expect([Math.min(...lengths), Math.max(...lengths)]).toEqual([30, 50]);
  });

  it('starts every prompt with the shared prefix, in addition to its own tokens', () => {
    for (const maker of [idPrompts(seededRandom(1), 9000), textPrompts(seededRandom(1))]) {
      const requests = randomRequests({ ...load, prefixLen: 16 }, maker, seededRandom(2));
      const heads = requests.map(({ prompt }) => JSON.stringify(maker.truncate(prompt, 16)));
      expect(new Set(heads).size).toBe(1);
      expect(requests[0]?.promptTokens).toBe(56);
      const longer = requests.map(({ prompt }) => JSON.stringify(maker.truncate(prompt, 24)));
      expect(new Set(longer).size).toBe(200);
    }
  });
});

describe('fileRequests', () => {
  it('reads lines of text and of JSON, over and over', () => {
    const text = 'Why is the sky blue?\n\n{"prompt": [5, 6, 7], "max_tokens": 3}\n{"prompt": "Hi"}\n';
    expect(fileRequests(text, 'p', 4, 20)).toEqual([
      { prompt: 'Why is the sky blue?', promptTokens: 5, maxTokens: 20 },
      { prompt: [5, 6, 7], promptTokens: 3, maxTokens: 3 },
      { prompt: 'Hi', promptTokens: 1, maxTokens: 20 },
      { prompt: 'Why is the sky blue?', promptTokens: 5, maxTokens: 20 },
    ]);
  });

  it('refuses what it does not understand', () => {
    expect(() => fileRequests('\n', 'p', 1, 1)).toThrow(/no prompt/);
    for (const line of ['{"prompt": 1}', '{"prompt": [1.5]}', '{"prompt": "a", "max_tokens": 0}', '{'])
      expect(() => fileRequests(`ok\n${line}`, 'p', 1, 1)).toThrow(/p, prompt 2/);
  });
});
