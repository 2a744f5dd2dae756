// Both conformance suites against the HTTP side with fakes behind it; the real server runs the same suites.
import { afterAll, beforeAll } from 'vitest';
import { type RunningServer, startServer } from '../fakes/running-server.ts';
import { aiSdkConformance } from './ai-sdk-suite.ts';
import { openaiConformance } from './openai-suite.ts';

let server: RunningServer;
beforeAll(async () => {
  server = await startServer({ engine: { modelName: 'fake', tokensPerStep: 2 } });
});
afterAll(() => server[Symbol.asyncDispose]());

const target = { getBaseUrl: () => server.url, model: 'fake' };
openaiConformance(target);
aiSdkConformance(target);
