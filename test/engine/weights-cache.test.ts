// Cached weights: the bytes of a fresh start, used by all, made again when damaged, never in the way when they cannot be.
import { execFile } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openGgml } from '../../src/engine/ffi/ggml.ts';
import { viewMemory } from '../../src/engine/ffi/koffi.ts';
import { LOCK, tryFlock } from '../../src/engine/ffi/libc.ts';
import { packedLayout } from '../../src/engine/jit/kernels/product/layout.ts';
import { unpackRow } from '../../src/engine/jit/kernels/product/unpack.ref.ts';
import { tensorTypes } from '../../src/engine/tensor/dtype.ts';
import { forProducts } from '../../src/engine/tensor/packing.ts';
import { describeEntries, removeEntriesOf } from '../../src/engine/weights/cache/cache-folder.ts';
import { PreparePool, TargetUnwritable } from '../../src/engine/weights/prepare-pool.ts';
import {
  type LoadWeightsOptions,
  loadWeights,
  type WeightPreparation,
} from '../../src/engine/weights/weight-loader.ts';
import { planWeightMemory, type WeightRequest } from '../../src/engine/weights/weight-plan.ts';
import { openWeights } from '../../src/files/open-weights.ts';
import { synthesiseModel } from '../../src/files/synthesise.ts';

const folder = mkdtempSync(join(tmpdir(), 'xllm-weights-'));
const cache = join(folder, 'cache');
const weights = join(cache, 'weights');
const model = join(folder, 'model.gguf');
const ggml = openGgml();
/** Beyond what is packed at once, so that threads and the cache have a part in it. */
const shape = {
  architecture: 'llama',
  numLayers: 2,
  hidden: 512,
  ffn: 1_536,
  numHeads: 8,
  numKvHeads: 4,
  headDim: 64,
  ropeTheta: 10_000,
  contextLength: 512,
  vocabSize: 36_000,
  isTied: true,
} as const;

const synth = (path: string, seed: number) => synthesiseModel({ name: 'test', shape, dtype: 'Q8_0', path, seed });
beforeAll(() => synth(model, 1));
beforeEach(() => rmSync(cache, { recursive: true, force: true }));
afterAll(() => rmSync(folder, { recursive: true }));

/** The model with another last byte. */
function variant(name: string, byte: number): string {
  const path = join(folder, name);
  const bytes = readFileSync(model);
  bytes[bytes.length - 1] = byte;
  writeFileSync(path, bytes);
  return path;
}

interface Loaded {
  readonly preparation: WeightPreparation;
  readonly bytes: Buffer;
  readonly warnings: readonly string[];
}

/** Without `limitBytes` there is no cache. */
async function load(path = model, limitBytes?: number, options: LoadWeightsOptions = {}): Promise<Loaded> {
  const file = await openWeights(path);
  const warnings: string[] = [];
  const packing = forProducts('Q8_0', false);
  const requests = [...file.tensors.values()].map((tensor): WeightRequest => {
    const isPacked = tensor.dtype === 'Q8_0';
    return { sources: [tensor], target: isPacked ? 'Q8_0' : 'F32', add: 0, packing: isPacked ? packing : null };
  });
  const loaded = await loadWeights(ggml, file, requests, {
    cache: limitBytes === undefined ? null : { folder: cache, limitBytes, memory: 'auto' },
    onWarning: (text) => warnings.push(text),
    ...options,
  });
  file.close();
  await loaded.preparation.published;
  const bytes = Buffer.from(new Uint8Array(viewMemory(loaded.weights[0]!.address, loaded.numBytes)));
  loaded.free();
  return { preparation: loaded.preparation, bytes, warnings };
}

const plenty = 2 ** 40;
const entries = () => readdirSync(weights).filter((name) => name.includes('.weights'));
const onlyEntry = () => {
  const [name, ...others] = entries();
  expect(others).toEqual([]);
  return join(weights, name ?? '');
};

describe('a second start', () => {
  test('packs nothing and has the same bytes', async () => {
    const [plain, first, second] = [await load(), await load(model, plenty), await load(model, plenty)];
    expect(plain.preparation).toMatchObject({ source: 'file', numRowsPacked: first.preparation.numRowsPacked });
    expect(first.preparation).toMatchObject({ source: 'file' });
    expect(first.preparation.numRowsPacked).toBeGreaterThan(36_000);
    expect(second.preparation).toMatchObject({ source: 'cache', numRowsPacked: 0 });
    expect(Buffer.compare(plain.bytes, first.bytes)).toBe(0);
    expect(Buffer.compare(plain.bytes, second.bytes)).toBe(0);
    expect([first.warnings, second.warnings]).toEqual([[], []]);
  });

  test('leaves no thread behind', async () => {
    const numThreads = () => readdirSync('/proc/self/task').length;
    await load(model, plenty);
    const before = numThreads();
    rmSync(cache, { recursive: true });
    await load(model, plenty);
    await load();
    expect(numThreads()).toBeLessThanOrEqual(before);
  });

  test('reads into memory of its own when asked to', async () => {
    await load(model, plenty);
    for (const memory of ['huge-pages', 'mapped'] as const) {
      const { preparation, bytes } = await load(model, plenty, {
        cache: { folder: cache, limitBytes: plenty, memory },
      });
      expect(preparation).toMatchObject({ source: 'cache', numRowsPacked: 0 });
      expect(preparation.memory).toMatch(memory === 'mapped' ? /^mapped, in / : /^huge pages, as asked for$/);
      expect(Buffer.compare(bytes, (await load()).bytes)).toBe(0);
    }
  });

  test('finds the entry under another path, and none for other content in the same place', async () => {
    await load(model, plenty);
    const copy = join(folder, 'copy.gguf');
    writeFileSync(copy, readFileSync(model));
    expect((await load(copy, plenty)).preparation.source).toBe('cache');
    const { atime, mtime, size } = statSync(copy);
    renameSync(variant('other.gguf', 2), copy);
    utimesSync(copy, atime, mtime);
    expect(statSync(copy)).toMatchObject({ size, mtime });
    const changed = await load(copy, plenty);
    expect(changed.preparation.source).toBe('file');
    expect(Buffer.compare(changed.bytes, (await load(copy)).bytes)).toBe(0);
    expect(entries()).toHaveLength(2);
    rmSync(copy);
  });
});

test('threads convert as the event loop does', async () => {
  const file = await openWeights(model);
  const tensor = file.tensors.get('token_embd.weight')!;
  const loaded = await loadWeights(ggml, file, [{ sources: [tensor], target: 'F32', add: 1, packing: null }]);
  const values = new Float32Array(viewMemory(loaded.weights[0]!.address, loaded.numBytes));
  const last = new Uint8Array(tensor.numBytes / shape.vocabSize);
  await file.read(tensor, last, tensor.numBytes - last.length);
  const expected = new Float32Array(shape.hidden);
  ggml.dequantizeRow(tensorTypes.Q8_0.ggmlType, last, expected);
  expect(values.slice(-shape.hidden)).toEqual(expected.map((value) => value + 1));
  loaded.free();
  file.close();
});

test('threads convert what they pack', async () => {
  const file = await openWeights(model);
  const tensor = file.tensors.get('token_embd.weight')!;
  const packing = forProducts('F32', false)!;
  const loaded = await loadWeights(ggml, file, [{ sources: [tensor], target: 'F32', add: 0, packing }]);
  const packed = new Uint8Array(viewMemory(loaded.weights[0]!.address, loaded.numBytes));
  const row = 35_990;
  const bytes = new Uint8Array(tensor.numBytes / shape.vocabSize);
  await file.read(tensor, bytes, row * bytes.length);
  const expected = new Float32Array(shape.hidden);
  ggml.dequantizeRow(tensorTypes.Q8_0.ggmlType, bytes, expected);
  expect(unpackRow(packedLayout('F32')!, packed, shape.hidden, row)).toEqual(expected);
  loaded.free();
  file.close();
});

describe('damage', () => {
  /** Changes the one entry and expects the next start to notice, and the one after to be well. */
  async function expectRepair(damage: (path: string) => void, warns: boolean): Promise<void> {
    const { bytes } = await load(model, plenty);
    damage(onlyEntry());
    const second = await load(model, plenty);
    expect(second.preparation.source).toBe('file');
    expect(second.warnings.join()).toMatch(warns ? /damaged/ : /^$/);
    expect(Buffer.compare(second.bytes, bytes)).toBe(0);
    expect((await load(model, plenty)).preparation.source).toBe('cache');
  }
  const put = (path: string, at: number, byte: number) => {
    const fd = openSync(path, 'r+');
    writeSync(fd, Buffer.of(byte), 0, 1, at);
    closeSync(fd);
  };

  test('a changed weight', () => expectRepair((path) => put(path, statSync(path).size >> 1, 0xa5), true));
  test('a changed description', () => expectRepair((path) => put(path, 100, 0), false));
  test('a file cut short', () => expectRepair((path) => truncateSync(path, statSync(path).size - (3 << 20)), false));
  test('an empty file', () => expectRepair((path) => truncateSync(path, 0), false));
  test('another model in its place', async () => {
    await load(model, plenty);
    const path = onlyEntry();
    await load(variant('third.gguf', 3), plenty);
    const otherPath = join(weights, entries().find((name) => join(weights, name) !== path) ?? '');
    writeFileSync(path, readFileSync(otherPath));
    expect((await load(model, plenty)).preparation.source).toBe('file');
  });
  test('a lost secret', () => expectRepair(() => rmSync(join(weights, 'secret')), false));
  test('half a secret', () => expectRepair(() => truncateSync(join(weights, 'secret'), 8), false));

  test('what a killed process left behind is written over', async () => {
    await load(model, plenty);
    const path = onlyEntry();
    writeFileSync(`${path}.part`, 'half');
    rmSync(path);
    expect((await load(model, plenty)).preparation.source).toBe('file');
    expect(onlyEntry()).toBe(path);
  });
});

describe('where it cannot be', () => {
  test('a limit that is too low is said, and evicts nothing', async () => {
    await load(model, plenty);
    const other = variant('fourth.gguf', 4);
    const { preparation, warnings, bytes } = await load(other, 10 << 20);
    expect(preparation).toMatchObject({ source: 'file', memory: 'huge pages, not cached' });
    expect(warnings.join()).toMatch(/\d+ MB do not fit into 10 MB \(--weights-cache-limit\)/);
    expect(Buffer.compare(bytes, (await load(other)).bytes)).toBe(0);
    expect(entries()).toHaveLength(1);
    expect((await load(model, 0)).warnings).toEqual([]);
  });

  test('the least recently used entry makes room, one that is in use does not', async () => {
    const [a, b, c] = [variant('a.gguf', 10), variant('b.gguf', 11), variant('c.gguf', 12)];
    await load(a, plenty);
    const first = onlyEntry();
    const limit = Math.floor(statSync(first).size * 2.5);
    await load(b, limit);
    utimesSync(first, new Date(), new Date(Date.now() + 5_000));
    await load(c, limit);
    expect(existsSync(first)).toBe(true);
    expect(entries()).toHaveLength(2);
    expect((await load(a, limit)).preparation.source).toBe('cache');
    // Both are in use: the third is served without.
    const held = entries().map((name) => openSync(join(weights, name), 'r'));
    expect(held.map((fd) => tryFlock(fd, LOCK.shared))).toEqual([true, true]);
    expect((await load(b, limit)).warnings.join()).toMatch(/not cached/);
    held.forEach(closeSync);
    expect((await load(b, limit)).warnings).toEqual([]);
    expect(entries()).toHaveLength(2);
  });

  test('a folder that is a file, or gives no space, is a warning', async () => {
    writeFileSync(cache, 'in the way');
    const { preparation, warnings } = await load(model, plenty);
    expect(preparation).toMatchObject({ source: 'file', memory: 'huge pages, not cached' });
    expect(warnings.join()).toMatch(/weights are not cached: .*ENOTDIR|EEXIST/);
  });

  test('a target that cannot be written is told from a source that cannot be read', async () => {
    const file = await openWeights(model);
    const tensor = file.tensors.get('token_embd.weight')!;
    const packing = forProducts('Q8_0', false);
    const { pieces } = planWeightMemory([{ sources: [tensor], target: 'Q8_0', add: 0, packing }]);
    const run = async (fd: number) => {
      const pool = new PreparePool(file.files, 2, ggml.variant);
      // A descriptor for reading takes no writes, as a full disk does not.
      try {
        await pool.run({ kind: 'prepare', pieces, target: { kind: 'file', fd, start: 0 } }, null);
      } finally {
        await pool.close();
      }
    };
    const fd = openSync(model, 'r');
    await expect(run(fd)).rejects.toThrow(TargetUnwritable);
    closeSync(fd);
    file.close();
  });

  test('a model file that has shrunk is an error, and leaves no entry', async () => {
    const path = variant('shrinks.gguf', 5);
    const file = await openWeights(path);
    truncateSync(path, statSync(path).size >> 1);
    const packing = forProducts('Q8_0', false);
    const sources = [file.tensors.get('token_embd.weight')!];
    for (const options of [{}, { cache: { folder: cache, limitBytes: plenty, memory: 'auto' } }] as const) {
      const loading = loadWeights(ggml, file, [{ sources, target: 'Q8_0', add: 0, packing }], options);
      await expect(loading).rejects.toMatchObject({ code: 'model_file_invalid' });
    }
    file.close();
    expect(entries()).toEqual([]);
  });
});

test('two processes at once make one entry and share it', async () => {
  const child = async () => {
    const args = [fileURLToPath(new URL('./load-weights-child.ts', import.meta.url)), model, cache, 'mapped'];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    return JSON.parse(stdout) as { source: string; numRowsPacked: number; warnings: string[] };
  };
  const results = await Promise.all([child(), child(), child()]);
  expect(results.map(({ source }) => source).sort()).toEqual(['cache', 'cache', 'file']);
  expect(results.flatMap(({ warnings }) => warnings)).toEqual([]);
  expect(entries()).toHaveLength(1);
});

test('entries are private, say what they are, and go with their model', async () => {
  chmodSync(folder, 0o755);
  mkdirSync(cache);
  await load(model, plenty);
  expect([weights, onlyEntry(), join(weights, 'secret')].map((path) => statSync(path).mode & 0o777)).toEqual([
    0o700, 0o600, 0o600,
  ]);
  const [entry] = describeEntries(weights);
  expect(entry?.description).toMatchObject({ about: 'Q8_0', sources: [{ path: realpathSync(model) }] });
  expect(removeEntriesOf(weights, join(folder, 'model'))).toBe(0);
  expect(removeEntriesOf(weights, model)).toBe(entry?.numBytes);
  expect(entries()).toEqual([]);
});
