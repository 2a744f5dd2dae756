// A try on its way through instances: whatever they say in whatever order, the client hears one stream, in order, once.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { EngineDelta } from '../engine-client.ts';
import { emptyDelta } from './delta-codec.ts';
import type { HandOffAddress } from './engine-connection.ts';
import type { TargetLeg } from './pair-attempt.ts';
import { RunningAttempt } from './running-attempt.ts';

const numTokens = 12;
const addressOf = (name: string): HandOffAddress => ({ name, incarnation: name, address: name });

/** One choice at the instances: who has it, and how far it is. */
interface Choice {
  at: string;
  made: number;
  /** Where it is about to go. */
  to: string | null;
  isOver: boolean;
}

/** Instances that hand choices to each other as the contract says; what each says is heard in its own order only. */
class World {
  readonly choices: Choice[];
  /** Said and not yet heard, by instance. */
  readonly said = new Map<string, EngineDelta[]>();
  readonly hears = new Map<string, (delta: EngineDelta) => void>();
  readonly dropped = new Set<string>();
  numArrived = 0;

  constructor(numChoices: number) {
    this.choices = Array.from({ length: numChoices }, () => ({ at: 'a', made: 0, to: null, isOver: false }));
  }

  say(instance: string, delta: EngineDelta): void {
    this.said.set(instance, [...(this.said.get(instance) ?? []), delta]);
  }

  leg(name: string): TargetLeg {
    return {
      abort: (choice) => {
        for (const [index, one] of this.choices.entries())
          if ((choice === undefined || choice === index) && one.at === name) one.isOver = true;
      },
      pause: () => {},
      resume: () => {},
      keep: () => {
        for (const [index, one] of this.choices.entries()) if (one.at === name && one.to !== null) this.stay(index);
      },
      moveTo: (target) => {
        for (const [index, one] of this.choices.entries()) {
          if (one.at !== name || one.isOver) continue;
          if (one.to === null) one.to = target.name;
          else this.say(name, { ...emptyDelta(index), stays: true });
        }
      },
      arrived: () => this.numArrived++,
      drop: () => this.dropped.add(name),
    };
  }

  generate(index: number): void {
    const one = this.choices[index]!;
    if (one.isOver) return;
    const isLast = one.made + 1 === numTokens;
    const tokenIds = Int32Array.of(100 * index + one.made);
    this.say(one.at, { ...emptyDelta(index), tokenIds, numBefore: one.made, finish: isLast ? 'length' : null });
    one.made++;
    if (isLast) {
      one.isOver = true;
      one.to = null;
    }
  }

  /** The target has taken it; it may speak before the source says so. */
  go(index: number): void {
    const one = this.choices[index]!;
    if (one.to === null || one.isOver) return;
    this.say(one.at, { ...emptyDelta(index), numBefore: one.made, finish: 'handed-off' });
    one.at = one.to;
    one.to = null;
  }

  stay(index: number): void {
    const one = this.choices[index]!;
    if (one.to === null) return;
    this.say(one.at, { ...emptyDelta(index), stays: true });
    one.to = null;
  }

  /** Hears the next thing that an instance has said. */
  hear(instance: string): boolean {
    const delta = this.said.get(instance)?.shift();
    if (delta) this.hears.get(instance)?.(delta);
    return delta !== undefined;
  }
}

type Event =
  | { readonly kind: 'generate' | 'go' | 'stay'; readonly choice: number }
  | { readonly kind: 'hear' | 'move'; readonly instance: string };

const instance = fc.constantFrom('a', 'b', 'c', 'd');
const script = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: fc.constant('generate' as const), choice: fc.nat(1) }) },
    { weight: 8, arbitrary: fc.record({ kind: fc.constant('hear' as const), instance }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('go' as const), choice: fc.nat(1) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('stay' as const), choice: fc.nat(1) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('move' as const), instance }) },
  ),
  { maxLength: 120 },
);

test('moves, refusals and late news: every choice is told whole, in order, with one end', async () => {
  await fc.assert(
    fc.asyncProperty(script, fc.integer({ min: 1, max: 2 }), async (events: Event[], numChoices) => {
      const world = new World(numChoices);
      const heard: number[][] = Array.from({ length: numChoices }, () => []);
      const ends: string[][] = Array.from({ length: numChoices }, () => []);
      let numGoneOn = 0;
      const attempt = new RunningAttempt({
        instance: 'a',
        numBefore: heard.map(() => 0),
        nowMs: () => 0,
        onDelta: ({ choice, tokenIds, finish, stays }) => {
          expect([stays, ends[choice]]).toEqual([undefined, []]);
          expect(finish).not.toBe('handed-off');
          heard[choice]!.push(...tokenIds);
          if (finish !== null) ends[choice]!.push(finish);
        },
        onGoneOn: () => numGoneOn++,
        expectAt: (name, hear) => {
          world.hears.set(name, hear);
          return world.leg(name);
        },
      });
      world.hears.set('a', attempt.hear);
      attempt.admitted(world.leg('a'));
      const visited = new Set(['a']);
      const moves: { readonly to: string; readonly isGone: Promise<boolean> }[] = [];
      for (const event of events) {
        if (event.kind === 'hear') world.hear(event.instance);
        else if (event.kind === 'move') {
          // What left an instance cannot come back to it.
          if (visited.has(event.instance)) continue;
          visited.add(event.instance);
          moves.push({ to: event.instance, isGone: attempt.moveTo(addressOf(event.instance)) });
        } else if ('choice' in event && event.choice < numChoices) world[event.kind](event.choice);
      }
      // Moves end one way or another, and so does the request.
      for (const index of world.choices.keys()) world.stay(index);
      for (let i = 0; i < numTokens; i++) for (const index of world.choices.keys()) world.generate(index);
      while (['a', 'b', 'c', 'd'].map((name) => world.hear(name)).some(Boolean));
      for (const [index, one] of world.choices.entries()) {
        expect(heard[index]).toEqual(Array.from({ length: numTokens }, (_, i) => 100 * index + i));
        expect(ends[index]).toEqual(['length']);
        expect(one.isOver).toBe(true);
      }
      let at = 'a';
      for (const { to, isGone } of moves) if (await isGone) at = to;
      expect(attempt.instance).toBe(at);
      expect(numGoneOn).toBeLessThanOrEqual(moves.length * numChoices);
    }),
    { numRuns: process.env['XLLM_TEST_FULL'] ? 10_000 : 500 },
  );
});
