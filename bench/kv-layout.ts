// Measures what the KV layouts cost: growing a pool, mapping pages into ranges, first touch, and reading through either.
// Run: node bench/kv-layout.ts   (takes 512 MiB for a few seconds; Linux)
import { median } from '../src/cli/bench/metrics.ts';
import { koffi } from '../src/engine/ffi/koffi.ts';
import {
  closeFd,
  fallocate,
  ftruncate,
  MADV,
  MAP,
  madvise,
  memfdCreate,
  mmap,
  munmap,
  PAGE_BYTES,
  PROT,
} from '../src/engine/ffi/libc.ts';

const poolBytes = 256 << 20;
const hugeBytes = 2 << 20;
const readWrite = PROT.read | PROT.write;
const libc = koffi.load('libc.so.6');
/** Writes every byte. */
const memset = libc.func('intptr_t memset(intptr_t, int, size_t)');
/** Reads every byte, at memory speed: the one looked for is not there. */
const memchr = libc.func('intptr_t memchr(intptr_t, int, size_t)');

/** Pages of the default model and of the Qwen3 0.6B shape: layers, bytes of one layer's keys and values. */
const models = [
  { name: 'SmolLM2 135M', numLayers: 30, layerBytes: 12 << 10 },
  { name: 'Qwen3 0.6B', numLayers: 28, layerBytes: 64 << 10 },
];

interface Pool {
  readonly fd: number;
  readonly address: number;
  readonly growUsPerMiB: number;
  close(): void;
}

function openPool(isHuge: boolean): Pool {
  const fd = memfdCreate('bench');
  ftruncate(fd, poolBytes);
  const base = mmap(poolBytes + hugeBytes, { prot: PROT.none, flags: MAP.private | MAP.anonymous | MAP.noreserve });
  const address = Math.ceil(base / hugeBytes) * hugeBytes;
  mmap(poolBytes, { address, prot: readWrite, flags: MAP.shared | MAP.fixed, fd });
  const growUs = timeUs(() => {
    if (!isHuge) return fallocate(fd, 0, poolBytes);
    for (let at = 0; at < poolBytes; at += hugeBytes) fallocate(fd, at, PAGE_BYTES);
    if (!madvise(address, poolBytes, MADV.collapse)) throw new Error('this kernel gives no huge pages on demand');
  });
  const close = (): void => {
    munmap(base, poolBytes + hugeBytes);
    closeFd(fd);
  };
  return { fd, address, growUsPerMiB: growUs / (poolBytes >> 20), close };
}

/** Medians over the pages of one pool. `order`: which page each block of the range has. */
function measure(pool: Pool, pageBytes: number, numLayers: number, layerBytes: number) {
  const numPages = Math.floor(poolBytes / pageBytes);
  const order = Array.from({ length: numPages }, (_, i) => (i * 37) % numPages);
  const pageAt = (i: number): number => pool.address + order[i]! * pageBytes;
  const poolTouchUs = order.map((_, i) => timeUs(() => memset(pageAt(i), 1, pageBytes)));

  const range = mmap(numPages * pageBytes, { prot: PROT.none, flags: MAP.private | MAP.anonymous | MAP.noreserve });
  const map = (i: number, populate: number): void => {
    const flags = MAP.shared | MAP.fixed | populate;
    const offset = order[i]! * pageBytes;
    mmap(pageBytes, { address: range + i * pageBytes, prot: readWrite, flags, fd: pool.fd, offset });
  };
  const touch = (i: number): void => memset(range + i * pageBytes, 1, pageBytes);
  const lazyMapUs = order.map((_, i) => timeUs(() => map(i, 0)));
  const lazyTouchUs = order.map((_, i) => timeUs(() => touch(i)));
  const mapUs = order.map((_, i) => timeUs(() => map(i, MAP.populate)));
  const touchUs = order.map((_, i) => timeUs(() => touch(i)));

  // As attention reads: a layer at a time, its part of every page.
  const read = (at: (i: number) => number): number =>
    timeUs(() => {
      for (let layer = 0; layer < numLayers; layer++) {
        for (let i = 0; i < numPages; i++) memchr(at(i) + layer * layerBytes, 255, layerBytes);
      }
    });
  const rangeReadUs: number[] = [];
  const poolReadUs: number[] = [];
  for (let round = 0; round < 9; round++) {
    rangeReadUs.push(read((i) => range + i * pageBytes));
    poolReadUs.push(read(pageAt));
  }
  munmap(range, numPages * pageBytes);
  const gigabytes = (numPages * numLayers * layerBytes) / 1e3;
  return {
    'pool: first touch us': median(poolTouchUs),
    'range: map lazily us': median(lazyMapUs),
    'then first touch us': median(lazyTouchUs),
    'range: map ready us': median(mapUs),
    'and first touch us': median(touchUs),
    'read range GB/s': gigabytes / Math.min(...rangeReadUs),
    'read pool GB/s': gigabytes / Math.min(...poolReadUs),
  };
}

function timeUs(call: () => void): number {
  const start = performance.now();
  call();
  return (performance.now() - start) * 1000;
}

for (const { name, numLayers, layerBytes } of models) {
  const pageBytes = numLayers * layerBytes;
  for (const isHuge of [false, true]) {
    // A virtual machine pays its host for memory that it never used before, once.
    openPool(isHuge).close();
    const pool = openPool(isHuge);
    const row = { 'grow us/MiB': pool.growUsPerMiB, ...measure(pool, pageBytes, numLayers, layerBytes) };
    pool.close();
    const cells = Object.entries(row).map(([label, value]) => `  ${label.padEnd(22)} ${value.toFixed(1)}`);
    console.log(`${name}, page ${pageBytes >> 10} KiB, ${isHuge ? 'huge' : 'small'} pages\n${cells.join('\n')}`);
  }
}
