// Owns the end of gated products: act(gate) * up, emitted and as its scalar twin.
import type { Vec } from '../../asm/registers.ts';
import { activate } from '../activation.ref.ts';
import { type Activation, emitActivation } from '../activation.ts';
import { Lanes } from '../lanes.ts';
import type { TileCode } from './registers.ts';

export type Gate = 'silu' | 'gelu';

const activations: Readonly<Record<Gate, Activation>> = { silu: 'silu', gelu: 'gelu_tanh' };

/** gate becomes act(gate) * up. */
export function emitGate({ a, isa }: TileCode, which: Gate, gate: Vec, up: Vec, temporaries: readonly Vec[]): void {
  const [t, n, power] = temporaries as [Vec, Vec, Vec];
  emitActivation(new Lanes(a, isa), activations[which], [gate], [[t], [n], [power]]);
  a.vmulps(gate, gate, up);
}

/** Twin of `emitGate`, in the same roundings. */
export const gated = (which: Gate, gate: number, up: number): number =>
  Math.fround(activate(gate, activations[which]) * up);
