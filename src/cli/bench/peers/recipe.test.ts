import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { isSetUp, moveOver, type Recipe, recipeFolder, setUp } from './recipe.ts';

const cacheFolder = mkdtempSync(join(tmpdir(), 'xllm-recipe-'));
afterAll(() => rmSync(cacheFolder, { recursive: true }));

function recipe(name: string, version: string, secondCommand: string): Recipe {
  return {
    name,
    version,
    tools: ['sh'],
    debianPackages: 'dash',
    steps: (at) => [
      {
        name: 'fetching',
        isDone: () => existsSync(at('fetched')),
        commands: [['sh', '-c', 'echo once >> runs; touch fetched.part']],
        after: () => moveOver(at('fetched.part'), at('fetched')),
      },
      { name: 'building', isDone: () => false, commands: [['sh', '-c', secondCommand]], after: () => {} },
    ],
  };
}

function run(one: Recipe, signal = new AbortController().signal) {
  const lines: string[] = [];
  return setUp(one, { cacheFolder, signal, log: (line) => lines.push(line) }).then(() => lines);
}

const read = (name: string, file: string) => readFileSync(join(cacheFolder, 'peers', name, file), 'utf8');

describe('setUp', () => {
  it('goes on where it stopped, and does nothing once all is there', async () => {
    const failing = recipe('resumed', '1', 'echo no such compiler; exit 3');
    await expect(run(failing)).rejects.toThrow(/exit 3 failed; see .*build\.log/);
    expect(read('resumed', 'build.log')).toContain('no such compiler');
    expect(isSetUp(failing, cacheFolder)).toBe(false);
    const working = recipe('resumed', '1', 'touch built');
    expect(await run(working)).toEqual(['resumed: building …']);
    expect(isSetUp(working, cacheFolder)).toBe(true);
    expect(await run(working)).toEqual([]);
    expect(read('resumed', 'runs')).toBe('once\n');
    expect(JSON.parse(read('resumed', 'build.json'))).toMatchObject({
      version: '1',
      commands: [expect.stringContaining('sh -c echo once'), 'sh -c touch built'],
    });
  });

  it('installs another version anew', async () => {
    await run(recipe('renewed', '1', 'touch first'));
    const second = recipe('renewed', '2', 'touch second');
    expect(isSetUp(second, cacheFolder)).toBe(false);
    await run(second);
    expect(existsSync(join(recipeFolder(second, cacheFolder), 'first'))).toBe(false);
    expect(existsSync(join(recipeFolder(second, cacheFolder), 'second'))).toBe(true);
  });

  it('names the packages that bring a missing tool', async () => {
    const lacking = { ...recipe('lacking', '1', 'true'), tools: ['xllm-no-such-tool'] };
    await expect(run(lacking)).rejects.toThrow('lacking needs xllm-no-such-tool: apt-get install dash');
  });

  it('ends what it runs when it is interrupted', async () => {
    const controller = new AbortController();
    const running = run(recipe('interrupted', '1', 'touch started; exec sleep 600'), controller.signal);
    while (!existsSync(join(cacheFolder, 'peers', 'interrupted', 'started')))
      await new Promise((resolve) => setTimeout(resolve, 20));
    controller.abort();
    await expect(running).rejects.toThrow(/abort/i);
  });
});
