// Owns what the parts of a product's code share: registers, places in memory, and the differences of instruction sets.
// Legend: C rows of x in a tile, L signed bytes per activation (2 where they are fine), parts: a strip's halves of rows.
import { invariant } from '../../../../common/errors.ts';
import type { Assembler } from '../../asm/assembler.ts';
import { type Mem, mem, ripMem } from '../../asm/operands.ts';
import { type Gpr, type Vec, ymm, zmm } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { STRIP_ROWS } from './layout.ts';

/** A strip is multiplied as two parts of 16 rows, each a register of AVX-512, and two registers in turn of AVX2. */
export const PARTS = 2;
export const PART_ROWS = STRIP_ROWS / PARTS;

/** General registers of a tile. Those without a note are free to use. */
export interface TileRegisters {
  /** First byte of the strip; kept. */
  readonly strip: Gpr;
  /** First row of x in the tile, and bytes between rows; kept. */
  readonly x: Gpr;
  readonly stride: Gpr;
  /** AVX2: which rows of each part, 0 or 8; kept. */
  readonly firstLane: Gpr | null;
  readonly block: Gpr;
  readonly header: Gpr;
  readonly count: Gpr;
  /** Rows 0 to 2 and 3 to 5 of x at the current elements. */
  readonly x0: Gpr;
  readonly x3: Gpr;
  readonly prefetch: Prefetch | null;
}

/**
 * What a tile brings closer besides what it multiplies. `ahead`, a lone tile: its own strip, to the first-level cache, in
 * time. `next`, of several: its share of the next strip, from `place` on, `step` bytes per block, to the second level.
 */
export type Prefetch = { readonly kind: 'ahead' } | { readonly kind: 'next'; readonly place: Gpr; readonly step: Mem };

const LINE_BYTES = 64;
const AHEAD_BYTES = 4096;
/** Lines that one block of one tile brings of the next strip, at most. */
export const MAX_NEXT_LINES = 9;

/** Rows of the largest tile: as many as have registers. */
export const tileRows = (isa: Isa, kind: 'plain' | 'fine' | 'float'): number =>
  isa === 'avx512' ? { plain: 6, fine: 3, float: 6 }[kind] : { plain: 3, fine: 2, float: 6 }[kind];

/** Emits what differs between instruction sets; hands out vector registers. */
export class TileCode {
  readonly a: Assembler;
  readonly isa: Isa;
  /** Rows of a register. */
  readonly lanes: 8 | 16;
  readonly registers: TileRegisters;
  readonly #free: Vec[];

  constructor(a: Assembler, isa: Isa, registers: TileRegisters) {
    this.a = a;
    this.isa = isa;
    this.lanes = isa === 'avx512' ? 16 : 8;
    this.registers = registers;
    this.#free = Array.from({ length: 2 * this.lanes }, (_, id) => (isa === 'avx512' ? zmm(id) : ymm(id)));
  }

  take(): Vec {
    const register = this.#free.shift();
    invariant(register, 'no vector register left');
    return register;
  }

  takeAll(count: number): Vec[] {
    return Array.from({ length: count }, () => this.take());
  }

  /** The first of this register's entries of a table of one per row of the strip. */
  lanePlace(base: Gpr, at: number, part: number, entryBytes: 1 | 2 | 4): Mem {
    const { firstLane } = this.registers;
    const index = firstLane ? { index: firstLane, scale: entryBytes } : undefined;
    return mem(base, at + part * PART_ROWS * entryBytes, index);
  }

  /** `at` bytes behind the current elements of the tile's row of x. */
  rowPlace(row: number, at: number): Mem {
    const { x0, x3, stride } = this.registers;
    const step = row % 3;
    return mem(row < 3 ? x0 : x3, at, step === 0 ? undefined : { index: stride, scale: step === 1 ? 1 : 2 });
  }

  /** Sets x0 and x3 to the tile's rows. */
  startRows(): void {
    const { x, x0, x3, stride } = this.registers;
    this.a.mov(x0, x);
    this.a.lea(x3, mem(x, 0, { index: stride, scale: 2 }));
    this.a.add(x3, stride);
  }

  advanceRows(numBytes: number): void {
    this.a.add(this.registers.x0, numBytes);
    this.a.add(this.registers.x3, numBytes);
  }

  /** Before the block at `block`. */
  prefetchNext(): void {
    const { prefetch } = this.registers;
    if (prefetch?.kind !== 'next') return;
    for (let i = 0; i < MAX_NEXT_LINES; i++) this.a.prefetcht1(mem(prefetch.place, LINE_BYTES * i));
    this.a.add(prefetch.place, prefetch.step);
  }

  /** During step `step` of `numSteps` of a block. */
  prefetchAhead(step: number, numSteps: number, blockBytes: number): void {
    const { prefetch, block } = this.registers;
    if (prefetch?.kind !== 'ahead') return;
    const perStep = Math.max(1, Math.round(blockBytes / LINE_BYTES / numSteps));
    for (let i = 0; i < perStep; i++) {
      this.a.prefetcht0(mem(block, AHEAD_BYTES + LINE_BYTES * (perStep * step + i)));
    }
  }

  zero(dst: Vec): void {
    this.a.vxorps(dst, dst, dst);
  }

  /** Bytes of equal value, as a memory operand. */
  bytes(value: number): Mem {
    return ripMem(this.a.constant(new Uint8Array(64).fill(value)));
  }

  /** 16-byte table in each 128 bits. */
  byteTable(values: readonly number[]): Mem {
    return ripMem(this.a.constant(Uint8Array.from({ length: 64 }, (_, i) => values[i % 16]!)));
  }

  /** A float in every lane, as a memory operand. */
  float(value: number): Mem {
    return ripMem(this.a.constant(new Float32Array(16).fill(value)));
  }
}
