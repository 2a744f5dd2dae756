// Both conformance suites and the page against the program itself with the default model.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startServer, type TestServer } from '../support/server.ts';
import { aiSdkConformance } from './ai-sdk-suite.ts';
import { openaiConformance } from './openai-suite.ts';

const CHROMIUM = '/usr/bin/chromium';
let server: TestServer;
beforeAll(async () => {
  server = await startServer(['--max-model-len', '2048']);
});
afterAll(() => server?.stop());

const target = { getBaseUrl: () => server.url, model: 'smollm2-135m-instruct' };
openaiConformance(target);
aiSdkConformance(target);

test('the page: Paris at temperature 0', async () => {
  if (!existsSync(CHROMIUM)) throw new Error('this test needs a browser: apt-get install -y chromium');
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
  try {
    const page = await browser.newPage();
    await page.goto(server.url);
    await page.getByRole('status').getByText('ready').waitFor();
    await page.getByLabel('Temperature').fill('0');
    await page.getByRole('textbox', { name: 'Message' }).fill('What is the capital of France?');
    await page.keyboard.press('Enter');
    await page
      .getByRole('log')
      .getByText(/first after/)
      .waitFor({ timeout: 60_000 });
    expect(await page.locator('article.assistant .text').textContent()).toContain('Paris');
  } finally {
    await browser.close();
  }
});
