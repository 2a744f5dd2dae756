// Owns sequential reading of a little-endian header through a small window, so that its size need not be known.
import { readSync } from 'node:fs';
import { invalidFile } from './open-file.ts';
import type { OpenFile } from './weights-file.ts';

const windowBytes = 1 << 20;

/** Every read checks the end of the file first, so a length that lies cannot cause an allocation. */
export class ByteCursor {
  readonly #file: OpenFile;
  readonly #maxBytes: number;
  #window: Buffer = Buffer.alloc(0);
  #view = new DataView(this.#window.buffer);
  /** Of the window's first byte in the file. */
  #windowStart = 0;
  #at = 0;

  /** Reading past `maxBytes` is a fault of the file, as reading past its end is. */
  constructor(file: OpenFile, maxBytes: number) {
    this.#file = file;
    this.#maxBytes = maxBytes;
  }

  get position(): number {
    return this.#windowStart + this.#at;
  }

  u8(what: string): number {
    const at = this.#take(1, what);
    return this.#view.getUint8(at);
  }
  i8(what: string): number {
    const at = this.#take(1, what);
    return this.#view.getInt8(at);
  }
  u16(what: string): number {
    const at = this.#take(2, what);
    return this.#view.getUint16(at, true);
  }
  i16(what: string): number {
    const at = this.#take(2, what);
    return this.#view.getInt16(at, true);
  }
  u32(what: string): number {
    const at = this.#take(4, what);
    return this.#view.getUint32(at, true);
  }
  i32(what: string): number {
    const at = this.#take(4, what);
    return this.#view.getInt32(at, true);
  }
  f32(what: string): number {
    const at = this.#take(4, what);
    return this.#view.getFloat32(at, true);
  }
  f64(what: string): number {
    const at = this.#take(8, what);
    return this.#view.getFloat64(at, true);
  }
  u64(what: string): number | bigint {
    const at = this.#take(8, what);
    return safeNumber(this.#view.getBigUint64(at, true));
  }
  i64(what: string): number | bigint {
    const at = this.#take(8, what);
    return safeNumber(this.#view.getBigInt64(at, true));
  }

  /** A 64-bit count or offset, at most `max`. */
  count(what: string, max: number): number {
    const at = this.#take(8, what);
    const value = this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 2 ** 32;
    if (value > max) throw this.fault(`${what} is ${value}, at most ${max} is possible`, this.position - 8);
    return value;
  }

  /** A count of things that take `minBytes` each in the rest of the file. */
  countOf(what: string, max: number, minBytes: number): number {
    const value = this.count(what, max);
    if (value * minBytes > this.#file.numBytes - this.position) {
      throw this.fault(`${what} is ${value}: more than the file can hold`, this.position - 8);
    }
    return value;
  }

  /** UTF-8 after a 64-bit length; bytes that are not UTF-8 become U+FFFD. */
  string(what: string, maxBytes: number): string {
    const numBytes = this.count(what, maxBytes);
    const at = this.#take(numBytes, what);
    return this.#window.toString('utf8', at, at + numBytes);
  }

  /** A copy of the next bytes, in a buffer of its own. */
  bytes(numBytes: number, what: string): ArrayBuffer {
    const at = this.#take(numBytes, what);
    return this.#view.buffer.slice(at, at + numBytes) as ArrayBuffer;
  }

  fault(what: string, offset = this.position) {
    return invalidFile(this.#file.path, what, offset);
  }

  /** Moves past `numBytes` and returns where they start in the window, which may be a new one. */
  #take(numBytes: number, what: string): number {
    if (this.#at + numBytes > this.#window.length) this.#refill(numBytes, what);
    const at = this.#at;
    this.#at += numBytes;
    return at;
  }

  #refill(numBytes: number, what: string): void {
    const start = this.position;
    const end = Math.min(this.#file.numBytes, this.#maxBytes);
    if (start + numBytes > end) {
      const limit = end === this.#maxBytes ? `the limit of ${end} bytes for a header` : `the end of the file`;
      throw this.fault(`${what} goes past ${limit}`);
    }
    const window = Buffer.allocUnsafeSlow(Math.min(Math.max(numBytes, windowBytes), end - start));
    let filled = this.#window.copy(window, 0, this.#at);
    while (filled < window.length) {
      const numRead = readSync(this.#file.fd, window, filled, window.length - filled, start + filled);
      if (numRead === 0) throw this.fault(`${what} goes past the end of the file: it has shrunk`);
      filled += numRead;
    }
    this.#window = window;
    this.#view = new DataView(window.buffer);
    this.#windowStart = start;
    this.#at = 0;
  }
}

function safeNumber(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
