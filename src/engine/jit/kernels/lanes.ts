// Owns the 16 virtual lanes that kernels are written in: one zmm register with AVX-512, two ymm registers with AVX2.
import { invariant } from '../../../common/errors.ts';
import type { Assembler } from '../asm/assembler.ts';
import { type Mem, offset, ripMem } from '../asm/operands.ts';
import { resized, type Vec, xmm } from '../asm/registers.ts';
import type { Isa } from '../cpu-features.ts';

/** 16 lanes of 32 bits: the registers that hold them, lanes 0 to 7 first. A splat names one register twice. */
export type Wide = readonly Vec[];

export const NUM_LANES = 16;

type Binary =
  | 'vaddps'
  | 'vsubps'
  | 'vmulps'
  | 'vdivps'
  | 'vminps'
  | 'vmaxps'
  | 'vfmadd213ps'
  | 'vfmadd231ps'
  | 'vandps'
  | 'vandnps'
  | 'vorps'
  | 'vxorps'
  | 'vpaddd';
type Unary = 'vcvtps2dq' | 'vcvtdq2ps';

/** Hands out vector registers and emits operations on 16 lanes. Bits of results do not depend on the ISA. */
export class Lanes {
  readonly isa: Isa;
  readonly #a: Assembler;
  readonly #free: Vec[];
  readonly #parts: number;
  readonly #partBytes: number;

  constructor(a: Assembler, isa: Isa) {
    this.isa = isa;
    this.#a = a;
    const bits = isa === 'avx512' ? 512 : 256;
    this.#free = Array.from({ length: isa === 'avx512' ? 32 : 16 }, (_, id) => ({ kind: 'vec', id, bits }) as const);
    this.#parts = 512 / bits;
    this.#partBytes = bits / 8;
  }

  /** Takes registers for 16 lanes. Throws when none are left. */
  take(): Wide {
    return Array.from({ length: this.#parts }, () => this.#register());
  }

  /** Takes one register, to hold equal lanes. */
  takeSplat(): Wide {
    const register = this.#register();
    return Array.from({ length: this.#parts }, () => register);
  }

  release(...wides: Wide[]): void {
    this.#free.unshift(...new Set(wides.flat()));
  }

  /** dst = a op b, lane by lane; for the multiply-adds dst = dst * a + b (213) or dst + a * b (231). */
  op(name: Binary, dst: Wide, a: Wide, b: Wide | Mem): void {
    this.#each(dst, (part, i) => this.#a[name](part, at(a, i), this.#source(b, i)));
  }

  convert(name: Unary, dst: Wide, source: Wide): void {
    this.#each(dst, (part, i) => this.#a[name](part, at(source, i)));
  }

  zero(dst: Wide): void {
    this.op('vxorps', dst, dst, dst);
  }

  /** Shifts every lane's 32 bits to the left. */
  shiftLeft(dst: Wide, source: Wide, count: number): void {
    this.#each(dst, (part, i) => this.#a.vpslld(part, at(source, i), count));
  }

  move(dst: Wide, source: Wide): void {
    this.#each(dst, (part, i) => this.#a.vmovaps(part, at(source, i)));
  }

  /** 16 floats of 4 bytes. */
  load(dst: Wide, place: Mem): void {
    this.#each(dst, (part, i) => this.#a.vmovups(part, offset(place, i * this.#partBytes)));
  }

  store(place: Mem, source: Wide): void {
    for (const [i, part] of source.entries()) this.#a.vmovups(offset(place, i * this.#partBytes), part);
  }

  /** 16 floats of 2 bytes, widened. */
  loadHalf(dst: Wide, place: Mem): void {
    this.#each(dst, (part, i) => this.#a.vcvtph2ps(part, offset(place, (i * this.#partBytes) / 2)));
  }

  /** 16 floats rounded to 2 bytes (to nearest, ties to even). */
  storeHalf(place: Mem, source: Wide): void {
    for (const [i, part] of source.entries()) this.#a.vcvtps2ph(offset(place, (i * this.#partBytes) / 2), part, 0);
  }

  /** One float in every lane. */
  broadcast(dst: Wide, place: Mem): void {
    this.#each(dst, (part) => this.#a.vbroadcastss(part, place));
  }

  /** Lane 0 of an xmm register in every lane. */
  spread(dst: Wide, source: Vec): void {
    this.#each(dst, (part) => this.#a.vbroadcastss(part, resized(source, 128)));
  }

  /** A constant in every lane, as a memory operand. */
  constant(value: number): Mem {
    return ripMem(this.#a.constant(new Float32Array(NUM_LANES).fill(value)));
  }

  /** The bits of an integer in every lane, as a memory operand. */
  constantBits(value: number): Mem {
    return ripMem(this.#a.constant(new Int32Array(NUM_LANES).fill(value)));
  }

  /**
   * Folds 16 lanes into lane 0: i with i + 8, then i + 4, i + 2, i + 1. Destroys `source`; returns the xmm register
   * that holds the result.
   */
  fold(name: 'vaddps' | 'vmaxps', source: Wide, temporary: Wide): Vec {
    const a = this.#a;
    const low = resized(at(source, 0), 256);
    const t = resized(at(temporary, 0), 256);
    if (this.isa === 'avx512') {
      a.vextractf64x4(t, at(source, 0), 1);
      a[name](low, low, t);
    } else {
      a[name](low, low, at(source, 1));
    }
    const x = resized(low, 128);
    const y = resized(t, 128);
    // Registers 16 and up exist for EVEX forms only.
    if (low.id >= 16 || t.id >= 16) a.vextractf32x4(y, low, 1);
    else a.vextractf128(y, low, 1);
    a[name](x, x, y);
    a.vpermilps(y, x, 0b01_00_11_10);
    a[name](x, x, y);
    a.vpermilps(y, x, 0b10_11_00_01);
    a[name](x, x, y);
    return xmm(x.id);
  }

  #register(): Vec {
    const register = this.#free.shift();
    invariant(register, 'no vector register left');
    return register;
  }

  /** Calls once per distinct register. */
  #each(wide: Wide, emit: (part: Vec, index: number) => void): void {
    const parts = wide[0] === wide[1] ? wide.slice(0, 1) : wide;
    for (const [index, part] of parts.entries()) emit(part, index);
  }

  #source(source: Wide | Mem, index: number): Vec | Mem {
    return 'kind' in source ? offset(source, index * this.#partBytes) : at(source, index);
  }
}

/** Lanes 0 to 3. */
export const lowest = (wide: Wide): Vec => xmm(at(wide, 0).id);

function at(wide: Wide, index: number): Vec {
  const part = wide[index];
  invariant(part, 'a wide value has a register for each part');
  return part;
}
