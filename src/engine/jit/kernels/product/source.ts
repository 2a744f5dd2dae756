// Owns reading blocks of quantised weights as files have them: quants, scales, minima, nothing computed.
import type { IntegerFormat } from './layout.ts';

/**
 * One block of the file, 32 or 256 elements. Quants are unsigned, as the format stores them (Q8_0: with 128 added), four
 * of them in each word, in order; scales and minima, one per group, and factors are raw: F16 bits or 8-bit integers.
 */
export interface SourceBlock {
  readonly quants: Uint32Array;
  readonly scales: Uint16Array;
  readonly minima: Uint16Array;
  scaleFactor: number;
  minimumFactor: number;
}

export const emptyBlock = (): SourceBlock => ({
  quants: new Uint32Array(64),
  scales: new Uint16Array(16),
  minima: new Uint16Array(16),
  scaleFactor: 0,
  minimumFactor: 0,
});

export interface SourceFormat {
  readonly blockElements: 32 | 256;
  readonly blockBytes: number;
  readonly read: (view: DataView, at: number, block: SourceBlock) => void;
}

const NIBBLES = 0x0f0f0f0f;
const PAIRS = 0x03030303;
const ONES = 0x01010101;

/** 16 bytes: elements 0 to 15 in low nibbles, 16 to 31 in high ones. */
function readNibbles(view: DataView, at: number, { quants }: SourceBlock): void {
  for (let i = 0; i < 4; i++) {
    const word = view.getUint32(at + 4 * i, true);
    quants[i] = word & NIBBLES;
    quants[i + 4] = (word >>> 4) & NIBBLES;
  }
}

/** The fifth bits of 32 elements, one bit each. */
function addFifthBits(bits: number, { quants }: SourceBlock): void {
  for (let i = 0; i < 8; i++) {
    // Four bits spread to four bytes: the multiplication puts bit j at 8 j.
    const four = (bits >>> (4 * i)) & 15;
    quants[i] = quants[i]! | (((four * 0x204081) & ONES) << 4);
  }
}

/** 12 bytes: 8 scales and 8 minima of 6 bits. Source: ggml-quants.c, get_scale_min_k4. */
function readSixBits(view: DataView, at: number, { scales, minima }: SourceBlock): void {
  for (let i = 0; i < 4; i++) {
    const [low, middle, high] = [view.getUint8(at + i), view.getUint8(at + i + 4), view.getUint8(at + i + 8)];
    scales[i] = low & 63;
    minima[i] = middle & 63;
    scales[i + 4] = (high & 15) | ((low >> 6) << 4);
    minima[i + 4] = (high >> 4) | ((middle >> 6) << 4);
  }
}

/** 128 bytes: of each 32, low nibbles are 32 elements and high nibbles the next 32. */
function readWideNibbles(view: DataView, at: number, { quants }: SourceBlock): void {
  for (let i = 0; i < 32; i++) {
    const word = view.getUint32(at + 4 * i, true);
    const to = 16 * (i >> 3) + (i & 7);
    quants[to] = word & NIBBLES;
    quants[to + 8] = (word >>> 4) & NIBBLES;
  }
}

/** 64 bytes: of each 32, 4 times 32 elements of two bits. */
function readPairs(view: DataView, at: number, { quants }: SourceBlock): void {
  for (let i = 0; i < 16; i++) {
    const word = view.getUint32(at + 4 * i, true);
    const to = 32 * (i >> 3) + (i & 7);
    for (let j = 0; j < 4; j++) quants[to + 8 * j] = (word >>> (2 * j)) & PAIRS;
  }
}

/** Sources: ggml-common.h (structs), ggml-quants.c (dequantize_row_*). */
export const sourceFormats: Readonly<Record<IntegerFormat, SourceFormat>> = {
  Q4_0: {
    blockElements: 32,
    blockBytes: 18,
    read(view, at, block) {
      block.scales[0] = view.getUint16(at, true);
      readNibbles(view, at + 2, block);
    },
  },
  Q4_1: {
    blockElements: 32,
    blockBytes: 20,
    read(view, at, block) {
      block.scales[0] = view.getUint16(at, true);
      block.minima[0] = view.getUint16(at + 2, true);
      readNibbles(view, at + 4, block);
    },
  },
  Q5_0: {
    blockElements: 32,
    blockBytes: 22,
    read(view, at, block) {
      block.scales[0] = view.getUint16(at, true);
      readNibbles(view, at + 6, block);
      addFifthBits(view.getUint32(at + 2, true), block);
    },
  },
  Q5_1: {
    blockElements: 32,
    blockBytes: 24,
    read(view, at, block) {
      block.scales[0] = view.getUint16(at, true);
      block.minima[0] = view.getUint16(at + 2, true);
      readNibbles(view, at + 8, block);
      addFifthBits(view.getUint32(at + 4, true), block);
    },
  },
  Q8_0: {
    blockElements: 32,
    blockBytes: 34,
    read(view, at, block) {
      block.scales[0] = view.getUint16(at, true);
      for (let i = 0; i < 8; i++) block.quants[i] = view.getUint32(at + 2 + 4 * i, true) ^ 0x80808080;
    },
  },
  IQ4_NL: {
    blockElements: 32,
    blockBytes: 18,
    read(view, at, block) {
      block.scales[0] = view.getUint16(at, true);
      readNibbles(view, at + 2, block);
    },
  },
  Q2_K: {
    blockElements: 256,
    blockBytes: 84,
    read(view, at, block) {
      for (let i = 0; i < 16; i++) {
        const byte = view.getUint8(at + i);
        block.scales[i] = byte & 15;
        block.minima[i] = byte >> 4;
      }
      readPairs(view, at + 16, block);
      block.scaleFactor = view.getUint16(at + 80, true);
      block.minimumFactor = view.getUint16(at + 82, true);
    },
  },
  Q3_K: {
    blockElements: 256,
    blockBytes: 110,
    read(view, at, block) {
      readPairs(view, at + 32, block);
      for (let i = 0; i < 64; i++) {
        const third = (view.getUint32(at + 4 * (i & 7), true) >>> (i >> 3)) & ONES;
        block.quants[i] = block.quants[i]! | (third << 2);
      }
      // 16 scales of 6 bits with 32 added: 4 bits in 8 bytes, then 2 bits in 4.
      for (let i = 0; i < 16; i++) {
        const low = (view.getUint8(at + 96 + (i & 7)) >> (4 * (i >> 3))) & 15;
        const high = (view.getUint8(at + 104 + (i & 3)) >> (2 * (i >> 2))) & 3;
        block.scales[i] = (low | (high << 4)) - 32;
      }
      block.scaleFactor = view.getUint16(at + 108, true);
    },
  },
  Q4_K: {
    blockElements: 256,
    blockBytes: 144,
    read(view, at, block) {
      block.scaleFactor = view.getUint16(at, true);
      block.minimumFactor = view.getUint16(at + 2, true);
      readSixBits(view, at + 4, block);
      readWideNibbles(view, at + 16, block);
    },
  },
  Q5_K: {
    blockElements: 256,
    blockBytes: 176,
    read(view, at, block) {
      block.scaleFactor = view.getUint16(at, true);
      block.minimumFactor = view.getUint16(at + 2, true);
      readSixBits(view, at + 4, block);
      readWideNibbles(view, at + 48, block);
      for (let i = 0; i < 64; i++) {
        const fifth = (view.getUint32(at + 16 + 4 * (i & 7), true) >>> (i >> 3)) & ONES;
        block.quants[i] = block.quants[i]! | (fifth << 4);
      }
    },
  },
  Q6_K: {
    blockElements: 256,
    blockBytes: 210,
    read(view, at, block) {
      for (let i = 0; i < 32; i++) {
        // 64 bytes hold the low nibbles of elements 0 to 63 and of 64 to 127; then the next 128 elements.
        const low = view.getUint32(at + 4 * i, true);
        const to = 32 * (i >> 4) + (i & 15);
        const high = view.getUint32(at + 128 + 32 * (i >> 4) + 4 * (i & 7), true) >>> (2 * ((i >> 3) & 1));
        block.quants[to] = (low & NIBBLES) | ((high & PAIRS) << 4);
        block.quants[to + 16] = ((low >>> 4) & NIBBLES) | (((high >>> 4) & PAIRS) << 4);
      }
      for (let i = 0; i < 16; i++) block.scales[i] = view.getInt8(at + 192 + i);
      block.scaleFactor = view.getUint16(at + 208, true);
    },
  },
};
