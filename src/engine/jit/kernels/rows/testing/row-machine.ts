// Owns operands of row ops in tests: matrices whose rows lie apart, with guards behind them.
import type { Address } from '../../../../ffi/koffi.ts';
import type { MachineCode } from '../../../asm/program.ts';
import { OpMachine } from '../../product/testing/op-machine.ts';
import { type OpLayout, writeRowOp } from '../row-op.ts';

/** Memory of an op, in every view. */
export interface Operand {
  readonly address: Address;
  readonly floats: Float32Array;
  readonly ints: Int32Array;
  readonly bytes: Uint8Array;
}

export interface Matrix extends Operand {
  readonly rowBytes: number;
  row(index: number): Float32Array;
}

/** Bytes behind every operand, and what they must still be after a call. */
const GUARD_BYTES = 256;
const GUARD = 0x5a;

export class RowMachine<Name extends string> {
  readonly #machine: OpMachine;
  readonly #layout: OpLayout<Name>;
  readonly #guards: Uint8Array[] = [];

  constructor(code: MachineCode, layout: OpLayout<Name>, how: 'native' | 'interpreted') {
    this.#machine = new OpMachine(code, layout.bytes, how);
    this.#layout = layout;
  }

  operand(numBytes: number): Operand {
    const { address, buffer } = this.#machine.allocate(numBytes + GUARD_BYTES);
    this.#guards.push(new Uint8Array(buffer, numBytes, GUARD_BYTES).fill(GUARD));
    const numWords = Math.floor(numBytes / 4);
    return {
      address,
      floats: new Float32Array(buffer, 0, numWords),
      ints: new Int32Array(buffer, 0, numWords),
      bytes: new Uint8Array(buffer, 0, numBytes),
    };
  }

  floats(values: ArrayLike<number>): Operand {
    const operand = this.operand(4 * values.length);
    operand.floats.set(values);
    return operand;
  }

  ints(values: ArrayLike<number>): Operand {
    const operand = this.operand(4 * values.length);
    operand.ints.set(values);
    return operand;
  }

  /** Rows that lie `gap` floats further apart than they are long. */
  matrix(rows: readonly Float32Array[], gap = 0): Matrix {
    const numFloats = rows[0]?.length ?? 0;
    const stride = numFloats + gap;
    const operand = this.operand(4 * stride * rows.length);
    operand.floats.fill(-7);
    for (const [i, row] of rows.entries()) operand.floats.set(row, i * stride);
    const row = (i: number) => operand.floats.slice(i * stride, i * stride + numFloats);
    return { ...operand, rowBytes: 4 * stride, row };
  }

  /** Returns the number of pieces. */
  async call(numRows: number, values: Readonly<Record<Name, Address>>, numThreads = 1): Promise<number> {
    const all = { ...values, rows: this.#machine.rowsAddress } as Record<Name | 'rows', Address>;
    writeRowOp(this.#layout, this.#machine.block, all);
    const numPieces = await this.#machine.run(numRows, numThreads);
    if (this.#guards.some((guard) => guard.some((byte) => byte !== GUARD)))
      throw new Error('the op wrote behind an operand');
    return numPieces;
  }

  free(): void {
    this.#machine.free();
  }
}
