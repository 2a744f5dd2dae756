// The page in a browser: it streams a chat, stops, works by keyboard, asks for a key, and obeys its own policy.
import { existsSync } from 'node:fs';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startServer } from '../fakes/running-server.ts';

const CHROMIUM = '/usr/bin/chromium';
let browser: Browser;

beforeAll(async () => {
  if (!existsSync(CHROMIUM)) throw new Error('this test needs a browser: apt-get install -y chromium');
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
});
afterAll(() => browser?.close());

async function open(url: string): Promise<{ page: Page; problems: string[] } & AsyncDisposable> {
  const page = await browser.newPage();
  const problems: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' && !message.text().includes('401')) problems.push(message.text());
  });
  page.on('pageerror', (error) => problems.push(String(error)));
  await page.goto(url);
  return { page, problems, [Symbol.asyncDispose]: () => page.close() };
}

const answerText = 'The capital of France is Paris.';
const script = () => [...Buffer.from(answerText)];

describe('the page', () => {
  test('answers by keyboard alone, twice, without a policy violation', async () => {
    await using server = await startServer({ engine: { script } });
    await using tab = await open(server.url);
    const { page, problems } = tab;
    await page.getByRole('status').getByText('ready').waitFor();
    await page.getByText('fake-model · 2048 tokens of context').waitFor();
    // The message field has the focus from the start.
    await page.keyboard.type('What is the capital of France?');
    await page.keyboard.press('Enter');
    await page.getByRole('log').getByText(answerText).waitFor();
    await page.getByText(/32 tokens · first after \d+ ms/).waitFor();
    expect(server.engine.requests[0]?.sampling.temperature).toBe(1);
    await page.getByLabel('Temperature').fill('0');
    await page.getByRole('textbox', { name: 'Message' }).focus();
    await page.keyboard.type('Line one');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('line two');
    await page.keyboard.press('Enter');
    await page
      .getByText(/first after/)
      .nth(1)
      .waitFor();
    expect(server.engine.requests[1]?.sampling.temperature).toBe(0);
    expect(server.text.lastChat?.messages).toEqual([
      { role: 'user', content: 'What is the capital of France?' },
      { role: 'assistant', content: answerText },
      { role: 'user', content: 'Line one\nline two' },
    ]);
    expect(problems).toEqual([]);
    const headers = (await fetch(server.url)).headers;
    expect(headers.get('content-security-policy')).toContain("default-src 'none'");
  });

  test('text of the model stays text', async () => {
    const markup = '<img src=x onerror="document.title=1"><b>bold</b>';
    await using server = await startServer({ engine: { script: () => [...Buffer.from(markup)] } });
    await using tab = await open(server.url);
    await tab.page.getByRole('status').getByText('ready').waitFor();
    await tab.page.keyboard.type('x');
    await tab.page.keyboard.press('Enter');
    await tab.page.getByText(markup).waitFor();
    expect(await tab.page.locator('#log img, #log b').count()).toBe(0);
  });

  test('stop and Escape end an answer, here and in the engine', async () => {
    await using server = await startServer({
      engine: { stepMs: 10, script: () => Array.from({ length: 2000 }, () => 0x61) },
    });
    await using tab = await open(server.url);
    const { page } = tab;
    await page.getByRole('status').getByText('ready').waitFor();
    for (const how of ['button', 'Escape'] as const) {
      await page.getByRole('textbox', { name: 'Message' }).fill('go on for ever');
      await page.keyboard.press('Enter');
      await page.getByRole('button', { name: 'Stop' }).waitFor();
      await page.locator('article[aria-busy]').getByText('aaa').waitFor();
      if (how === 'button') await page.getByRole('button', { name: 'Stop' }).click();
      else await page.keyboard.press('Escape');
      await page.locator('article:not([aria-busy])').getByText('Stopped.').last().waitFor();
      await page.getByRole('button', { name: 'Send' }).waitFor();
      await expect.poll(() => server.engine.numRunning, { timeout: 60_000 }).toBe(0);
    }
    await page.getByRole('button', { name: 'New chat' }).click();
    expect(await page.locator('article').count()).toBe(0);
  });

  test('asks for a key, and uses it', async () => {
    await using server = await startServer({ engine: { script }, config: { apiKeys: ['the-key'] } });
    await using tab = await open(server.url);
    const { page } = tab;
    await page.getByLabel('This server asks for an API key').waitFor();
    await page.keyboard.type('wrong');
    await page.keyboard.press('Enter');
    await page.getByText('The server refused this key.').waitFor();
    await page.getByLabel('This server asks for an API key').fill('the-key');
    await page.keyboard.press('Enter');
    await page.locator('#key-form').waitFor({ state: 'hidden' });
    await page.keyboard.type('hello');
    await page.keyboard.press('Enter');
    await page.getByText(answerText).waitFor();
    expect(await page.locator('#curl').textContent()).not.toContain('the-key');
  });

  test('shows that the engine is away, and errors as the API words them', async () => {
    await using server = await startServer();
    server.engine.die();
    await using tab = await open(server.url);
    await tab.page.getByRole('status').getByText('starting').waitFor();
    await tab.page.keyboard.type('hello');
    await tab.page.keyboard.press('Enter');
    await tab.page.getByRole('alert').getByText('The engine is starting or restarting').waitFor();
  });
});
