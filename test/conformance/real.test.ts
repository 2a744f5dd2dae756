// Both conformance suites against the program itself with the default model.
import { afterAll, beforeAll } from 'vitest';
import { startServer, type TestServer } from '../support/server.ts';
import { aiSdkConformance } from './ai-sdk-suite.ts';
import { openaiConformance } from './openai-suite.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startServer(['--max-model-len', '2048']);
});
afterAll(() => server?.stop());

const target = { getBaseUrl: () => server.url, model: 'smollm2-135m-instruct' };
openaiConformance(target);
aiSdkConformance(target);
