// Owns one try while it runs: which instance has it, and its way from one to the next with its KV.
import type { EngineDelta, EngineHandle } from '../engine-client.ts';
import type { HandOffAddress } from './engine-connection.ts';
import { PairAttempt, type SourceLeg, type TargetLeg } from './pair-attempt.ts';

/** What is heard of a try. */
export interface AttemptEvents {
  readonly onDelta: (delta: EngineDelta) => void;
  /** A choice has gone on at another instance, so long after its last token. */
  readonly onGoneOn: (pauseMs: number) => void;
}

/** What a request holds of its try. */
export interface AttemptHandle extends EngineHandle {
  /** Who has it, or the last part of it that is on its way. */
  readonly instance: string;
  /**
   * It goes on at another instance, with its KV. Resolves when nothing of it is left where it was: true; or when it is
   * known that it, or a part of it, stays there: false.
   */
  moveTo(target: HandOffAddress): Promise<boolean>;
}

export interface RunningAttemptOptions extends AttemptEvents {
  readonly instance: string;
  /** By choice, tokens of earlier tries. */
  readonly numBefore: readonly number[];
  readonly nowMs: () => number;
  /** null: that instance is not connected. */
  readonly expectAt: (instance: string, hear: (delta: EngineDelta) => void) => TargetLeg | null;
}

/** The way to another instance. */
interface Move {
  readonly source: string;
  readonly target: HandOffAddress;
  readonly leg: TargetLeg;
  readonly pair: PairAttempt;
  /** Choices that are still where they were. */
  readonly left: Set<number>;
  /** Of its choices, some. */
  hasStayed: boolean;
  hasGone: boolean;
  readonly end: (isGone: boolean) => void;
}

interface Outlet {
  hear: (delta: EngineDelta) => void;
}

export class RunningAttempt implements AttemptHandle {
  readonly #options: RunningAttemptOptions;
  /** By choice, tokens told over all tries; null: it has ended. */
  readonly #numTokens: (number | null)[];
  #instance: string;
  #leg: SourceLeg | null = null;
  /** What stands for the request: the latest pair, or the one instance. */
  #handle: EngineHandle | null = null;
  #move: Move | null = null;
  /** Where what the first instance says goes to, and what comes out of the latest pair, or of the one instance. */
  readonly #first: Outlet = { hear: (delta) => this.#tell(delta) };
  #last = this.#first;
  #isPaused = false;
  #isAborted = false;

  constructor(options: RunningAttemptOptions) {
    this.#options = options;
    this.#numTokens = [...options.numBefore];
    this.#instance = options.instance;
  }

  get instance(): string {
    return this.#instance;
  }

  /** What the first instance says. */
  readonly hear = (delta: EngineDelta): void => this.#first.hear(delta);

  /** Somebody else is to go on after the first token. false: it is not connected. To be called before `admitted`. */
  expectAt(target: HandOffAddress): boolean {
    return this.#begin(target, () => {}) !== null;
  }

  admitted(leg: SourceLeg): void {
    this.#leg = leg;
    if (this.#move) this.#move.pair.admitted(leg);
    else this.#handle = leg;
    if (this.#isAborted) this.abort();
  }

  notAdmitted(): void {
    this.#move?.pair.notAdmitted();
  }

  moveTo(target: HandOffAddress): Promise<boolean> {
    const leg = this.#leg;
    if (!leg || this.#move || this.#isAborted || this.#isOver) return Promise.resolve(false);
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const move = this.#begin(target, resolve);
    if (!move) return Promise.resolve(false);
    move.pair.admitted(leg);
    leg.moveTo(target);
    return promise;
  }

  abort(choice?: number, keepTokens?: number): void {
    if (choice === undefined) this.#isAborted = true;
    this.#handle?.abort(choice, keepTokens);
    if (choice === undefined) this.#move?.end(false);
  }

  pause(): void {
    this.#isPaused = true;
    this.#handle?.pause();
  }

  resume(): void {
    this.#isPaused = false;
    this.#handle?.resume();
  }

  get #isOver(): boolean {
    return this.#numTokens.every((numTokens) => numTokens === null);
  }

  /** Puts a pair between the present instance and the client. */
  #begin(target: HandOffAddress, end: (isGone: boolean) => void): Move | null {
    const { onGoneOn, nowMs, expectAt } = this.#options;
    const inlet: Outlet = { hear: () => {} };
    const leg = expectAt(target.name, (delta) => inlet.hear(delta));
    if (!leg) return null;
    // What comes out of this pair goes to the client, or into the next pair.
    const out: Outlet = { hear: (delta) => this.#tell(delta) };
    const pair = new PairAttempt(
      this.#numTokens,
      (hear) => {
        inlet.hear = hear;
        return leg;
      },
      {
        onDelta: (delta) => out.hear(delta),
        nowMs,
        onGoneOn: (pauseMs) => {
          this.#instance = target.name;
          onGoneOn(pauseMs);
        },
      },
    );
    const left = new Set([...this.#numTokens.keys()].filter((choice) => this.#numTokens[choice] !== null));
    const move: Move = { source: this.#instance, target, leg, pair, left, hasStayed: false, hasGone: false, end };
    this.#last.hear = (delta) => {
      pair.hearSource(delta);
      this.#follow(move, delta);
    };
    this.#last = out;
    this.#handle = pair;
    if (this.#isPaused) pair.pause();
    this.#move = move;
    return move;
  }

  /** What the source has said of a move. */
  #follow(move: Move, { choice, finish, stays }: EngineDelta): void {
    if (stays) move.hasStayed = true;
    if (finish === 'handed-off') move.hasGone = true;
    if (finish !== null || stays) move.left.delete(choice);
    if (move.left.size > 0 || this.#move !== move) return;
    if (move.hasStayed) {
      // Where a part of it has gone it stays a pair, and goes on elsewhere only by another try.
      if (!move.hasGone) {
        move.leg.drop();
        this.#move = null;
      }
      this.#instance = move.source;
      move.end(false);
      return;
    }
    this.#move = null;
    this.#leg = move.leg;
    this.#instance = move.target.name;
    move.end(true);
  }

  #tell(delta: EngineDelta): void {
    const { choice, tokenIds, finish, stays } = delta;
    if (stays) return;
    const numTokens = this.#numTokens[choice];
    if (numTokens !== undefined && numTokens !== null)
      this.#numTokens[choice] = finish === null ? numTokens + tokenIds.length : null;
    this.#options.onDelta(delta);
  }
}
