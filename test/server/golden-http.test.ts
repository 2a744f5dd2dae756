// The golden tokens again, through the HTTP API of a real server in F32; a model without a tokenizer refuses text clearly.
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { goldenFolder, goldenModels, readGoldenCases } from '../engine/golden-cases.ts';
import { complete } from '../support/client.ts';
import { startServer } from '../support/server.ts';

test.each(goldenModels)('%s', async (model) => {
  const server = await startServer([
    join(goldenFolder, model),
    '--dtype',
    'float32',
    '--threads',
    '1',
    '--log-level',
    'warn',
  ]);
  try {
    const cases = await readGoldenCases(model);
    const answers = await Promise.all(
      cases.map(({ prompt }) => complete(server.url, { prompt, max_tokens: 16, temperature: 0, ignore_eos: true })),
    );
    for (const [i, { greedyIds }] of cases.entries()) expect(answers[i]?.tokenIds, `case ${i}`).toEqual(greedyIds);
    const refused = await complete(server.url, { prompt: 'Hello', max_tokens: 1 });
    expect(refused.status).toBe(400);
    expect(refused.error?.code).toBe('tokenizer_missing');
  } finally {
    await server.stop();
  }
});
