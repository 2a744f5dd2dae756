// Owns the x86-64 registers: general (64 and 32 bits), vector (xmm, ymm, zmm) and opmask.

/** A general register. `id` is its number in encodings. */
export interface Gpr {
  readonly kind: 'gpr';
  readonly id: number;
  readonly bits: 64 | 32 | 8;
}

/** A vector register; ids 16 to 31 exist with AVX-512 only. */
export interface Vec {
  readonly kind: 'vec';
  readonly id: number;
  readonly bits: 128 | 256 | 512;
  /** Opmask that guards this destination, see `masked`. */
  readonly mask?: Mask;
  /** Lanes that the mask leaves out are zeroed instead of kept. */
  readonly zeroing?: boolean;
}

/** An opmask register k0 to k7 (AVX-512). */
export interface Mask {
  readonly kind: 'mask';
  readonly id: number;
}

const names64 = 'rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15'.split(' ');
const names32 = 'eax ecx edx ebx esp ebp esi edi r8d r9d r10d r11d r12d r13d r14d r15d'.split(' ');
const names8 = 'al cl dl bl spl bpl sil dil r8b r9b r10b r11b r12b r13b r14b r15b'.split(' ');

const gpr = (id: number): Gpr => ({ kind: 'gpr', id, bits: 64 });

export const rax = gpr(0);
export const rcx = gpr(1);
export const rdx = gpr(2);
export const rbx = gpr(3);
export const rsp = gpr(4);
export const rbp = gpr(5);
export const rsi = gpr(6);
export const rdi = gpr(7);
export const r8 = gpr(8);
export const r9 = gpr(9);
export const r10 = gpr(10);
export const r11 = gpr(11);
export const r12 = gpr(12);
export const r13 = gpr(13);
export const r14 = gpr(14);
export const r15 = gpr(15);

/** The low 32 bits of a general register; writing them clears the upper 32. */
export const r32 = (register: Gpr): Gpr => ({ ...register, bits: 32 });
/** The low byte of a general register. */
export const r8of = (register: Gpr): Gpr => ({ ...register, bits: 8 });

export const xmm = (id: number): Vec => ({ kind: 'vec', id, bits: 128 });
export const ymm = (id: number): Vec => ({ kind: 'vec', id, bits: 256 });
export const zmm = (id: number): Vec => ({ kind: 'vec', id, bits: 512 });
export const k = (id: number): Mask => ({ kind: 'mask', id });

/** The same register seen with another width. */
export const resized = (register: Vec, bits: Vec['bits']): Vec => ({ kind: 'vec', id: register.id, bits });

/** A destination guarded by an opmask k1 to k7; other lanes keep their value, or become 0 when `zeroing`. */
export const masked = (register: Vec, mask: Mask, zeroing = false): Vec => ({ ...register, mask, zeroing });

/** The name that assembly text uses. */
export function registerName(register: Gpr | Vec | Mask): string {
  switch (register.kind) {
    case 'gpr': {
      const names = register.bits === 64 ? names64 : register.bits === 32 ? names32 : names8;
      return String(names[register.id]);
    }
    case 'vec': {
      const letter = { 128: 'x', 256: 'y', 512: 'z' }[register.bits];
      const mask = register.mask ? `{k${register.mask.id}}${register.zeroing ? '{z}' : ''}` : '';
      return `${letter}mm${register.id}${mask}`;
    }
    case 'mask':
      return `k${register.id}`;
  }
}
