// Owns what general-register instructions do, for the interpreter.

export interface Flags {
  readonly carry: boolean;
  readonly zero: boolean;
  readonly sign: boolean;
}

/** One instruction's operands, as unsigned integers of its width. */
export interface GeneralOperands {
  readonly numBits: number;
  dst(): bigint;
  source(index: number): bigint;
  /** Of the memory operand that the instruction does not read (lea). */
  address(): bigint;
  /** Truncates to the width. */
  set(value: bigint): void;
}

/** Returns the new flags, or nothing where they stay (or nobody reads what they become). */
type Semantics = (o: GeneralOperands, flags: Flags) => Flags | undefined;

const signBit = (value: bigint, numBits: number) => (value >> BigInt(numBits - 1)) & 1n;

function flagsOf(o: GeneralOperands, result: bigint, carry: boolean): Flags {
  const value = BigInt.asUintN(o.numBits, result);
  return { carry, zero: value === 0n, sign: signBit(value, o.numBits) === 1n };
}

const compute =
  (
    op: (a: bigint, b: bigint, numBits: number) => bigint,
    hasCarry: (a: bigint, b: bigint, numBits: number) => boolean,
  ) =>
  (isStored: boolean): Semantics =>
  (o) => {
    const [a, b] = [o.dst(), o.source(0)];
    const result = op(a, b, o.numBits);
    if (isStored) o.set(result);
    return flagsOf(o, result, hasCarry(a, b, o.numBits));
  };

const never = () => false;
const subtract = compute(
  (a, b) => a - b,
  (a, b) => a < b,
);
const and = compute((a, b) => a & b, never);
const isStored = true;

const assign =
  (value: (o: GeneralOperands) => bigint): Semantics =>
  (o) => {
    o.set(value(o));
    return undefined;
  };

const moveIf =
  (holds: (flags: Flags) => boolean): Semantics =>
  (o, flags) => {
    o.set(holds(flags) ? o.source(0) : o.dst());
    return undefined;
  };

/** inc and dec leave the carry alone. */
const step =
  (by: bigint): Semantics =>
  (o, { carry }) => {
    const result = o.dst() + by;
    o.set(result);
    return flagsOf(o, result, carry);
  };

function trailingZeros(value: bigint, numBits: number): bigint {
  let count = 0;
  while (count < numBits && ((value >> BigInt(count)) & 1n) === 0n) count++;
  return BigInt(count);
}

const countOnes = (value: bigint) => BigInt(value.toString(2).replaceAll('0', '').length);

export const generalSemantics: Readonly<Record<string, Semantics>> = {
  mov: assign((o) => o.source(0)),
  movzxb: assign((o) => BigInt.asUintN(8, o.source(0))),
  movzxw: assign((o) => BigInt.asUintN(16, o.source(0))),
  movsxb: assign((o) => BigInt.asIntN(8, o.source(0))),
  movsxd: assign((o) => BigInt.asIntN(32, o.source(0))),
  lea: assign((o) => o.address()),
  add: compute(
    (a, b) => a + b,
    (a, b, numBits) => a + b >= 1n << BigInt(numBits),
  )(isStored),
  sub: subtract(isStored),
  cmp: subtract(!isStored),
  and: and(isStored),
  test: and(!isStored),
  or: compute((a, b) => a | b, never)(isStored),
  xor: compute((a, b) => a ^ b, never)(isStored),
  shl: compute((a, b) => a << b, never)(isStored),
  shr: compute((a, b) => a >> b, never)(isStored),
  sar: compute((a, b, numBits) => BigInt.asIntN(numBits, a) >> b, never)(isStored),
  inc: step(1n),
  dec: step(-1n),
  not: assign((o) => ~o.dst()),
  neg: assign((o) => -o.dst()),
  imul: assign((o) => o.dst() * o.source(0)),
  imul3: assign((o) => o.source(0) * o.source(1)),
  tzcnt: assign((o) => trailingZeros(o.source(0), o.numBits)),
  popcnt: assign((o) => countOnes(o.source(0))),
  cmovb: moveIf(({ carry }) => carry),
  cmove: moveIf(({ zero }) => zero),
  cmovne: moveIf(({ zero }) => !zero),
  // As if differences never overflowed.
  cmovl: moveIf(({ sign }) => sign),
  cmovg: moveIf(({ sign, zero }) => !sign && !zero),
  cmovle: moveIf(({ sign, zero }) => sign || zero),
};
