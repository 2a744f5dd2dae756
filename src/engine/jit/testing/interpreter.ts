// Owns running emitted code without the CPU for it: an interpreter of what kernels use, AVX-512 included.
// It executes the assembler's items (that their bytes are right is shown against GNU as) in memory that it was given.
import { invariant } from '../../../common/errors.ts';
import type { Label, Mem, Operand } from '../asm/operands.ts';
import type { Instruction, MachineCode } from '../asm/program.ts';
import type { Gpr, Mask } from '../asm/registers.ts';
import { type Flags, type GeneralOperands, generalSemantics } from './general-semantics.ts';
import { type VectorMachine, vectorSemantics } from './vector-semantics.ts';

/** Memory, at the address that the code knows it by. */
export interface Region {
  readonly address: number;
  readonly view: DataView;
}

const codeBase = 0x7000_0000_0000;
const stackBase = 0x7fff_0000_0000;
const stackBytes = 16 * 1024;
const stackTop = BigInt(stackBase + stackBytes - 8);
const rspId = 4;
const argumentIds = [7, 6, 2, 1, 8, 9];
const savedIds = [3, 5, 12, 13, 14, 15];

/** Calls `code` with integer arguments and returns what it leaves in rax. Throws on foreign memory, unknown instructions, and registers not restored. */
export function interpret(code: MachineCode, args: readonly number[], regions: readonly Region[]): bigint {
  return new Machine(code, regions).call(args);
}

class Machine implements VectorMachine {
  readonly #code: MachineCode;
  readonly #regions: readonly Region[];
  readonly #labels = new Map<Label, { readonly index: number; readonly offset: number }>();
  readonly #gprs = new BigUint64Array(16);
  /** 32 registers of 16 lanes. */
  readonly #vectors = new Uint32Array(32 * 16).fill(0x7fc0_dead);
  readonly #masks = new Uint32Array(8).fill(0xffff);
  /** Items behind the calls that have not returned. */
  readonly #returns: number[] = [];
  #flags: Flags = { carry: false, zero: false, sign: false };

  constructor(code: MachineCode, regions: readonly Region[]) {
    this.#code = code;
    const constants = new DataView(code.bytes.slice().buffer);
    const stack = new DataView(new ArrayBuffer(stackBytes));
    this.#regions = [...regions, { address: codeBase, view: constants }, { address: stackBase, view: stack }];
    for (const [index, { item, offset }] of code.items.entries())
      if (item.kind === 'label') this.#labels.set(item.label, { index, offset });
  }

  call(args: readonly number[]): bigint {
    for (const [i, id] of argumentIds.entries()) this.#gprs[id] = BigInt(args[i] ?? 0xdead);
    for (const id of savedIds) this.#gprs[id] = BigInt(1000 + id);
    this.#gprs[rspId] = stackTop;
    let index = 0;
    for (;;) {
      const item = this.#code.items[index++]?.item;
      invariant(item && item.kind !== 'data', 'execution left the code');
      if (item.kind === 'jump') {
        if (item.jump === 'call') this.#returns.push(index);
        if (this.#holds(item.jump)) index = this.#labelOf(item.target).index;
      } else if (item.kind === 'instruction') {
        if (item.key === 'ret') {
          const next = this.#returns.pop();
          if (next === undefined) break;
          index = next;
        } else this.#execute(item);
      }
    }
    invariant(this.#gprs[rspId] === stackTop, 'the stack pointer is not restored');
    for (const id of savedIds) invariant(this.#gprs[id] === BigInt(1000 + id), 'a saved register is not restored');
    return this.#gprs[0]!;
  }

  #labelOf(label: Label): { readonly index: number; readonly offset: number } {
    const place = this.#labels.get(label);
    invariant(place, `label ${label.name} is bound`);
    return place;
  }

  #holds(jump: string): boolean {
    const { carry, zero, sign } = this.#flags;
    switch (jump) {
      case 'jmp':
      case 'call':
        return true;
      // As if differences never overflowed.
      case 'js':
      case 'jl':
        return sign;
      case 'jns':
      case 'jge':
        return !sign;
      case 'jle':
        return sign || zero;
      case 'jb':
        return carry;
      case 'jae':
        return !carry;
      case 'je':
        return zero;
      case 'jne':
        return !zero;
      case 'jbe':
        return carry || zero;
      case 'ja':
        return !carry && !zero;
      default:
        throw new Error(`jump ${jump} is not interpreted`);
    }
  }

  #execute({ key, operands }: Instruction): void {
    const general = generalSemantics[key];
    const vector = vectorSemantics[key];
    if (general) this.#flags = general(this.#general(operands), this.#flags) ?? this.#flags;
    else if (vector) vector(this, operands);
    else if (key === 'div') this.#divide(this.#general(operands).dst());
    else if (key === 'lockXadd') this.#exchangeAdd(operands as [Mem, Gpr]);
    else if (key === 'lockCmpxchg') this.#compareExchange(operands as [Mem, Gpr]);
    else if (key === 'push' || key === 'pop') this.#pushOrPop(key, operands[0] as Gpr);
    else invariant(key.startsWith('prefetch'), `instruction ${key} is not interpreted`);
  }

  /** rax and rdx become quotient and remainder. */
  #divide(by: bigint): void {
    const [rax, rdx] = [0, 2];
    const dividend = (this.#gprs[rdx]! << 64n) | this.#gprs[rax]!;
    this.#gprs[rax] = dividend / by;
    this.#gprs[rdx] = dividend % by;
  }

  #exchangeAdd([place, register]: [Mem, Gpr]): void {
    const { view, at } = this.#place(this.#addressOf(place), 8);
    const old = view.getBigUint64(at, true);
    view.setBigUint64(at, BigInt.asUintN(64, old + this.#gprs[register.id]!), true);
    this.#gprs[register.id] = old;
  }

  /** Memory that equals rax takes the register; else rax takes the memory. */
  #compareExchange([place, register]: [Mem, Gpr]): void {
    const { view, at } = this.#place(this.#addressOf(place), 8);
    const old = view.getBigUint64(at, true);
    const isEqual = old === this.#gprs[0];
    this.#flags = { carry: false, zero: isEqual, sign: false };
    if (isEqual) view.setBigUint64(at, this.#gprs[register.id]!, true);
    else this.#gprs[0] = old;
  }

  #pushOrPop(key: 'push' | 'pop', { id }: Gpr): void {
    if (key === 'push') this.#gprs[rspId]! -= 8n;
    const { view, at } = this.#place(Number(this.#gprs[rspId]), 8);
    if (key === 'push') view.setBigUint64(at, this.#gprs[id]!, true);
    else this.#gprs[id] = view.getBigUint64(at, true);
    if (key === 'pop') this.#gprs[rspId]! += 8n;
  }

  #general(operands: readonly Operand[]): GeneralOperands {
    const [dst, ...sources] = operands as [Gpr | Mem, ...(Gpr | Mem | number)[]];
    const sizes = operands.map((operand) => this.#numBytes(operand)).filter((size) => size !== undefined);
    const [numBytes] = sizes as [4 | 8];
    const numBits = numBytes * 8;
    const read = (operand: Gpr | Mem | number | undefined): bigint => {
      if (typeof operand === 'number') return BigInt.asUintN(numBits, BigInt(operand));
      invariant(operand, 'too few operands');
      if (operand.kind === 'gpr') return BigInt.asUintN(numBits, this.#gprs[operand.id]!);
      const { view, at } = this.#place(this.#addressOf(operand), numBytes);
      return numBytes === 8 ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true));
    };
    return {
      numBits,
      dst: () => read(dst),
      source: (index) => read(sources[index]),
      address: () => BigInt(this.#addressOf(sources[0] as Mem)),
      set: (value) => {
        const truncated = BigInt.asUintN(numBits, value);
        if (dst.kind === 'gpr') {
          this.#gprs[dst.id] = truncated;
          return;
        }
        const { view, at } = this.#place(this.#addressOf(dst), numBytes);
        if (numBytes === 8) view.setBigUint64(at, truncated, true);
        else view.setUint32(at, Number(truncated), true);
      },
    };
  }

  #numBytes(operand: Operand): number | undefined {
    if (typeof operand !== 'object') return undefined;
    if (operand.kind === 'gpr') return operand.bits / 8;
    return operand.kind === 'mem' ? operand.bytes : undefined;
  }

  #addressOf({ base, index, scale, disp, label }: Mem): number {
    if (label) return codeBase + this.#labelOf(label).offset + disp;
    const start = base ? this.#gprs[base.id]! : 0n;
    const more = index ? this.#gprs[index.id]! * BigInt(scale) : 0n;
    return Number(BigInt.asUintN(64, start + more + BigInt(disp)));
  }

  #place(address: number, numBytes: number): { readonly view: DataView; readonly at: number } {
    for (const { address: start, view } of this.#regions)
      if (address >= start && address + numBytes <= start + view.byteLength) return { view, at: address - start };
    throw new Error(`the code touches ${numBytes} bytes at 0x${address.toString(16)}, outside its memory`);
  }

  lanes(operand: Operand, numLanes: number): Uint32Array {
    invariant(typeof operand === 'object', 'a vector or memory');
    if (operand.kind === 'vec') return this.#vectors.slice(operand.id * 16, operand.id * 16 + numLanes);
    invariant(operand.kind === 'mem', 'a vector or memory');
    const step = operand.broadcast ? 0 : 4;
    const { view, at } = this.#place(this.#addressOf(operand), operand.broadcast ? 4 : numLanes * 4);
    return Uint32Array.from({ length: numLanes }, (_, lane) => view.getUint32(at + step * lane, true));
  }

  setLanes(operand: Operand, values: Uint32Array): void {
    invariant(typeof operand === 'object', 'a vector or memory');
    if (operand.kind === 'mem') {
      const { view, at } = this.#place(this.#addressOf(operand), values.length * 4);
      for (const [lane, value] of values.entries()) view.setUint32(at + 4 * lane, value, true);
      return;
    }
    invariant(operand.kind === 'vec', 'a vector or memory');
    const chosen = operand.mask ? this.#masks[operand.mask.id]! : 0xffff;
    for (let lane = 0; lane < 16; lane++) {
      const isChosen = ((chosen >>> lane) & 1) === 1;
      if (lane >= values.length) this.#vectors[operand.id * 16 + lane] = 0;
      else if (isChosen) this.#vectors[operand.id * 16 + lane] = values[lane]!;
      else if (operand.zeroing) this.#vectors[operand.id * 16 + lane] = 0;
    }
  }

  gpr({ id }: Gpr): bigint {
    return this.#gprs[id]!;
  }

  setGpr({ id }: Gpr, value: bigint): void {
    this.#gprs[id] = value;
  }

  mask({ id }: Mask): number {
    return this.#masks[id]!;
  }

  setMask({ id }: Mask, bits: number): void {
    this.#masks[id] = bits;
  }

  setFlags(carry: boolean, zero: boolean): void {
    this.#flags = { carry, zero, sign: false };
  }
}
