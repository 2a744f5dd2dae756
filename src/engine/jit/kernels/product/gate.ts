// Owns the activation of gated feed-forward layers, emitted and as its scalar twin: act(gate) * up.
import type { Vec } from '../../asm/registers.ts';
import { emitExp2, exp2 } from '../exp2.ts';
import { fma32 } from '../float.ref.ts';
import { Lanes } from '../lanes.ts';
import type { TileCode } from './registers.ts';

/** silu(g) = g / (1 + e^-g). gelu (its tanh form) = g / (1 + e^(-2 √(2/π) (g + 0.044715 g³))). */
export type Gate = 'silu' | 'gelu';

/** Both are g / (1 + 2^(g (linear + cubic g²))). */
const exponents: Readonly<Record<Gate, { readonly linear: number; readonly cubic: number }>> = {
  silu: { linear: -Math.LOG2E, cubic: 0 },
  gelu: {
    linear: -2 * Math.sqrt(2 / Math.PI) * Math.LOG2E,
    cubic: -2 * Math.sqrt(2 / Math.PI) * 0.044715 * Math.LOG2E,
  },
};
/** The largest exponent that `emitExp2` takes: beyond it the result is 0 for all that matters. */
const HIGHEST = 127;

/** gate becomes act(gate) * up. */
export function emitGate(t: TileCode, which: Gate, gate: Vec, up: Vec, temporaries: readonly Vec[]): void {
  const { a } = t;
  const { linear, cubic } = exponents[which];
  const [x, n, power] = temporaries as [Vec, Vec, Vec];
  if (cubic === 0) a.vmulps(x, gate, t.float(linear));
  else {
    a.vmulps(x, gate, gate);
    a.vmovups(n, t.float(cubic));
    a.vfmadd213ps(x, n, t.float(linear));
    a.vmulps(x, x, gate);
  }
  a.vminps(x, x, t.float(HIGHEST));
  emitExp2(new Lanes(a, t.isa), [x], [n], [power]);
  a.vaddps(x, x, t.float(1));
  a.vdivps(gate, gate, x);
  a.vmulps(gate, gate, up);
}

/** Twin of `emitGate`, in the same roundings. */
export function gated(which: Gate, gate: number, up: number): number {
  const linear = Math.fround(exponents[which].linear);
  const cubic = Math.fround(exponents[which].cubic);
  const factor = cubic === 0 ? linear : fma32(Math.fround(gate * gate), cubic, linear);
  const power = exp2(Math.min(Math.fround(factor * gate), HIGHEST));
  return Math.fround(Math.fround(gate / Math.fround(power + 1)) * up);
}
