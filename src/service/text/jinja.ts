// Owns running chat templates: @huggingface/jinja, closer to Python's Jinja and with limits on steps and size.
import * as library from '@huggingface/jinja';
import { type JinjaValue, pythonEquals, pythonString, pythonStrip } from './jinja-values.ts';

/** A node of a parsed template. */
interface Node {
  readonly type: string;
  readonly [key: string]: unknown;
}

interface Scope {
  set(name: string, value: unknown): JinjaValue;
}

// Version 0.5.11's declarations import each other without file extensions, which TypeScript does not resolve here.
// Its methods are open to overriding at run time; evaluateBlock turns statements into text.
const { Environment, Interpreter, Template } = library as unknown as {
  readonly Environment: new () => Scope;
  readonly Interpreter: new (
    global: Scope,
  ) => {
    run(program: Node): JinjaValue;
    evaluate(node: Node | undefined, scope: Scope): JinjaValue;
    evaluateBlock(statements: readonly Node[], scope: Scope): JinjaValue;
  };
  readonly Template: new (source: string) => { readonly parsed: Node };
};

export interface JinjaLimits {
  /** Nodes evaluated: about 5 million a second. */
  readonly maxSteps: number;
  /** UTF-16 units of any string on the way, the result included. */
  readonly maxUnits: number;
}

/** The template called `raise_exception`. */
export class TemplateRefusal extends Error {}

/** The template went past a limit. */
export class TemplateLimit extends Error {}

/** What it takes to set up one iteration, in nodes evaluated. */
const stepsPerItem = 10;

/** `range` refuses more, as jinja2's sandbox does (MAX_RANGE); lists by other means are held to it too. */
const maxItems = 100_000;

export class JinjaTemplate {
  readonly #program: Node;

  /** Throws Error where the source cannot be parsed. */
  constructor(source: string) {
    this.#program = new Template(source).parsed;
  }

  /**
   * `nowMs` is what `strftime_now` tells. Throws TemplateRefusal, TemplateLimit, or Error for whatever the template does
   * wrong.
   */
  render(variables: Readonly<Record<string, unknown>>, nowMs: number, limits: JinjaLimits): string {
    const scope = new Environment();
    const globals = {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      raise_exception: (message: unknown) => {
        throw new TemplateRefusal(String(message));
      },
      range: pythonRange,
      strftime_now: (format: unknown) => strftime(new Date(nowMs), String(format)),
      ...variables,
    };
    for (const [name, value] of Object.entries(globals)) if (value !== undefined) scope.set(name, value);
    return String(new LimitedInterpreter(scope, limits).run(this.#program).value);
  }
}

const stripMethods = ['strip', 'lstrip', 'rstrip'] as const;

class LimitedInterpreter extends Interpreter {
  readonly #limits: JinjaLimits;
  /** The loops under way, the innermost last. */
  readonly #loops: Loop[] = [];
  #numSteps = 0;

  constructor(scope: Scope, limits: JinjaLimits) {
    super(scope);
    this.#limits = limits;
  }

  override evaluate(node: Node | undefined, scope: Scope): JinjaValue {
    if (++this.#numSteps > this.#limits.maxSteps) throw new TemplateLimit('it ran too long');
    const result = this.#evaluatePatched(node, scope) ?? super.evaluate(node, scope);
    const { value } = result;
    if (typeof value === 'string' && value.length > this.#limits.maxUnits) throw new TemplateLimit('it wrote too much');
    if (Array.isArray(value)) {
      if (value.length > maxItems) throw new TemplateLimit('it made a list that is too long');
      // A loop sets up every iteration before it runs the first.
      if (node !== undefined && node === this.#loops.at(-1)?.iterable) this.#numSteps += stepsPerItem * value.length;
    }
    return result;
  }

  /** As the library's, but what is printed is Python's str() of it. */
  override evaluateBlock(statements: readonly Node[], scope: Scope): JinjaValue {
    const loop = this.#loops.at(-1);
    const isLoopBody = loop !== undefined && loop.body === statements;
    if (isLoopBody && loop.isOver) super.evaluate({ type: 'Break' }, scope);
    let text = '';
    for (const statement of statements) {
      try {
        const value = this.evaluate(statement, scope);
        if (!silentStatements.includes(statement.type)) text += pythonString(value);
      } catch (error) {
        if (!(error instanceof LoopControl)) throw error;
        text += error.text;
        if (!isLoopBody) throw new LoopControl(error.kind, text);
        loop.isOver = error.kind === 'Break';
        break;
      }
      if (text.length > this.#limits.maxUnits) throw new TemplateLimit('it wrote too much');
    }
    return new StringValue(text);
  }

  /** The library forgets what an iteration wrote before `break` or `continue`: the loop's body catches them itself. */
  #evaluateFor(node: Node, scope: Scope): JinjaValue {
    const over = node['iterable'] as Node;
    const iterable = over.type === 'SelectExpression' ? (over['lhs'] as Node) : over;
    this.#loops.push({ body: node['body'] as readonly Node[], iterable, isOver: false });
    const result = super.evaluate(node, scope);
    this.#loops.pop();
    return result;
  }

  /** What the library lacks or does otherwise; null leaves the node to it. Operands are evaluated once. */
  #evaluatePatched(node: Node | undefined, scope: Scope): JinjaValue | null {
    switch (node?.type) {
      case 'Evaluated':
        return node['result'] as JinjaValue;
      case 'For':
        return this.#evaluateFor(node, scope);
      case 'Break':
      case 'Continue':
        throw new LoopControl(node.type, '');
      case 'CallExpression':
        return this.#evaluateCall(node, scope);
      case 'FilterExpression':
        return this.#evaluateFilter(node, scope);
      case 'BinaryExpression':
        return this.#evaluateBinary(node, scope);
      default:
        return null;
    }
  }

  /** strip and its kin with an argument, which 0.5.11 ignores. */
  #evaluateCall(node: Node, scope: Scope): JinjaValue | null {
    const callee = node['callee'] as Node;
    const [argument] = node['args'] as readonly Node[];
    if (callee.type !== 'MemberExpression' || callee['computed'] === true || argument === undefined) return null;
    const side = stripMethods.find((name) => name === (callee['property'] as Node)['value']);
    if (side === undefined) return null;
    const text = this.evaluate(callee['object'] as Node, scope).value;
    const chars = this.evaluate(argument, scope).value;
    if (typeof text !== 'string' || (typeof chars !== 'string' && chars !== null)) {
      throw new TypeError(`${side}() takes a string`);
    }
    return new StringValue(pythonStrip(text, side, chars));
  }

  /** `trim` and `string` of anything; operands of other filters go to the library evaluated. */
  #evaluateFilter(node: Node, scope: Scope): JinjaValue | null {
    const operand = node['operand'] as Node;
    if (operand.type === 'Evaluated') return null;
    const result = this.evaluate(operand, scope);
    const name = (node['filter'] as Node)['value'];
    if (name === 'trim') return new StringValue(pythonString(result).trim());
    if (name === 'string') return new StringValue(pythonString(result));
    return super.evaluate({ ...node, operand: evaluated(result) }, scope);
  }

  #evaluateBinary(node: Node, scope: Scope): JinjaValue | null {
    const operator = (node['operator'] as { readonly value: string }).value;
    if (!['==', '!=', '+', '*', '%', '~'].includes(operator)) return null;
    const left = this.evaluate(node['left'] as Node, scope);
    const right = this.evaluate(node['right'] as Node, scope);
    if (operator === '==' || operator === '!=') {
      return new BooleanValue(pythonEquals(left, right) === (operator === '=='));
    }
    if (operator === '~') return new StringValue(pythonString(left) + pythonString(right));
    if (operator === '+' && (typeof left.value === 'string') !== (typeof right.value === 'string')) {
      throw new TypeError('a string and something else cannot be added');
    }
    if (operator === '*') {
      const text = typeof left.value === 'string' ? left.value : right.value;
      const times = typeof left.value === 'string' ? right.value : left.value;
      if (typeof text === 'string' && typeof times === 'number') {
        if (text.length * times > this.#limits.maxUnits) throw new TemplateLimit('it wrote too much');
        return new StringValue(text.repeat(Math.max(0, times)));
      }
    }
    if (operator === '%' && left.type === 'IntegerValue' && right.type === 'IntegerValue') {
      const [a, b] = [left.value as number, right.value as number];
      if (b === 0) throw new RangeError('integer modulo by zero');
      // Python's remainder has the divisor's sign.
      return new IntegerValue(((a % b) + b) % b);
    }
    return super.evaluate({ ...node, left: evaluated(left), right: evaluated(right) }, scope);
  }
}

/** The library's classes of values are not exported, but its scopes convert to them. */
function classOf<T>(value: T): new (value: T) => JinjaValue {
  return new Environment().set('value', value).constructor as new (
    value: T,
  ) => JinjaValue;
}
const StringValue = classOf<string>('');
const IntegerValue = classOf<number>(0);
const BooleanValue = classOf<boolean>(false);

/** A node that stands for a value already there. */
const evaluated = (result: JinjaValue): Node => ({ type: 'Evaluated', result });

interface Loop {
  readonly body: readonly Node[];
  /** What the loop goes over. */
  readonly iterable: Node;
  /** It met `break`. */
  isOver: boolean;
}

/** These evaluate to null, which an expression would print as None. */
const silentStatements = ['Set', 'Macro', 'Comment'];

/** On its way to the loop's body, with what was written since. */
class LoopControl extends Error {
  readonly kind: 'Break' | 'Continue';
  readonly text: string;

  constructor(kind: 'Break' | 'Continue', text: string) {
    super(`${kind} outside a loop`);
    this.kind = kind;
    this.text = text;
  }
}

function pythonRange(start: unknown, stop?: unknown, step: unknown = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  const isInt = (value: unknown): value is number => Number.isSafeInteger(value);
  if (!isInt(from) || !isInt(to) || !isInt(step) || step === 0) throw new TypeError('range() takes integers');
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (length > maxItems) throw new TemplateLimit(`it asked for a range of more than ${maxItems}`);
  return Array.from({ length }, (_, i) => from + i * step);
}

const months = 'January February March April May June July August September October November December'.split(' ');
const days = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split(' ');

/** Python's strftime in the C locale and local time, for the directives that templates use. */
export function strftime(date: Date, format: string): string {
  const two = (n: number) => String(n).padStart(2, '0');
  const month = months[date.getMonth()] ?? '';
  const day = days[date.getDay()] ?? '';
  const directives: Readonly<Record<string, string>> = {
    Y: String(date.getFullYear()),
    y: two(date.getFullYear() % 100),
    m: two(date.getMonth() + 1),
    d: two(date.getDate()),
    H: two(date.getHours()),
    I: two(date.getHours() % 12 || 12),
    M: two(date.getMinutes()),
    S: two(date.getSeconds()),
    p: date.getHours() < 12 ? 'AM' : 'PM',
    B: month,
    b: month.slice(0, 3),
    A: day,
    a: day.slice(0, 3),
    '%': '%',
  };
  return format.replace(/%([a-zA-Z%])/g, (whole, name: string) => directives[name] ?? whole);
}
