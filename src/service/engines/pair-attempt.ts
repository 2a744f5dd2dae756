// Owns one try at a request by two instances: one computes the prompt and the first token, the other goes on. To who
// tries it looks like one: a single stream in order, and a loss only where neither has what the client still wants.
import type { EngineDelta, EngineHandle } from '../engine-client.ts';
import { emptyDelta } from './delta-codec.ts';
import type { HandOffAddress } from './engine-connection.ts';

/** The instance that has it. */
export interface SourceLeg extends EngineHandle {
  /** No hand-off any more: what has not left goes on there. */
  keep(): void;
  /** What runs there is to go on at another instance, with its KV. */
  moveTo(target: HandOffAddress): void;
}

/** The instance that goes on. */
export interface TargetLeg extends SourceLeg {
  /** It must have the request by now. */
  arrived(): void;
  /** It will not get the request: nothing is expected of it any more. */
  drop(): void;
}

/** here: with the source. there: with the target. */
type Place = 'here' | 'there' | 'ended';

interface Choice {
  place: Place;
  /** Tokens told so far, earlier attempts' included. */
  numTokens: number;
  /** What the target said before the source had told all that comes before it. */
  readonly early: EngineDelta[];
  isSourceGone: boolean;
  /** When the source's last token came; NaN: it has told none. */
  lastTokenMs: number;
  /** The target's first token has been told. */
  hasGoneOn: boolean;
}

export class PairAttempt implements EngineHandle {
  readonly #onDelta: (delta: EngineDelta) => void;
  readonly #choices: readonly Choice[];
  readonly #target: TargetLeg;
  #source: SourceLeg | null = null;
  /** Told to decode the rest itself: the target is gone. */
  #isKept = false;
  #isTargetGone = false;
  #isPaused = false;
  readonly #nowMs: () => number;
  readonly #onGoneOn: (pauseMs: number) => void;

  /**
   * `numBefore`: by choice, tokens that were told before; null: it has ended. `onGoneOn` hears, once for each choice, how
   * long it took from the source's last token to the target's first one.
   */
  constructor(
    numBefore: readonly (number | null)[],
    expect: (onDelta: (delta: EngineDelta) => void) => TargetLeg,
    options: {
      readonly onDelta: (delta: EngineDelta) => void;
      readonly nowMs: () => number;
      readonly onGoneOn: (pauseMs: number) => void;
    },
  ) {
    this.#onDelta = options.onDelta;
    this.#nowMs = options.nowMs;
    this.#onGoneOn = options.onGoneOn;
    this.#choices = numBefore.map((numTokens) => ({
      place: numTokens === null ? 'ended' : 'here',
      numTokens: numTokens ?? 0,
      early: [],
      isSourceGone: false,
      lastTokenMs: Number.NaN,
      hasGoneOn: false,
    }));
    this.#target = expect((delta) => this.#hearTarget(delta));
  }

  /** The source has taken the request. */
  admitted(source: SourceLeg): void {
    this.#source = source;
    if (this.#isPaused) source.pause();
    if (this.#isTargetGone) this.#keep();
  }

  /** The source has not taken it. */
  notAdmitted(): void {
    this.#target.drop();
  }

  hearSource(delta: EngineDelta): void {
    const choice = this.#choices[delta.choice];
    if (!choice || choice.place === 'ended') return;
    if (isLoss(delta)) {
      choice.isSourceGone = true;
      // Gone with what it has passed on already, it is not missed.
      if (choice.place === 'here' || choice.early.length > 0) this.#end(choice, delta);
      return;
    }
    // The target may have spoken first: what the source has still to say comes before that all the same.
    if (delta.finish === 'handed-off') {
      if (this.#isTargetGone) this.#end(choice, lossOf(delta.choice));
      else {
        choice.place = 'there';
        this.#target.arrived();
        if (this.#isPaused) this.#target.pause();
      }
      return;
    }
    if (choice.place === 'there' && delta.numBefore !== choice.numTokens) return;
    if (delta.tokenIds.length > 0) choice.lastTokenMs = this.#nowMs();
    this.#tell(choice, delta);
    this.#tellEarly(choice);
  }

  abort(choice?: number, keepTokens?: number): void {
    this.#source?.abort(choice, keepTokens);
    this.#target.abort(choice, keepTokens);
    if (choice === undefined) this.#target.drop();
  }

  pause(): void {
    this.#isPaused = true;
    this.#source?.pause();
    this.#target.pause();
  }

  resume(): void {
    this.#isPaused = false;
    this.#source?.resume();
    this.#target.resume();
  }

  #hearTarget(delta: EngineDelta): void {
    const choice = this.#choices[delta.choice];
    if (!choice || choice.place === 'ended') return;
    if (isLoss(delta)) {
      this.#isTargetGone = true;
      if (choice.place === 'there' || choice.isSourceGone) this.#end(choice, delta);
      else this.#keep();
      return;
    }
    if (this.#isPaused && choice.place === 'here') this.#target.pause();
    choice.place = 'there';
    choice.early.push(delta);
    if (choice.isSourceGone && delta.numBefore > choice.numTokens) this.#end(choice, lossOf(delta.choice));
    else this.#tellEarly(choice);
  }

  #tellEarly(choice: Choice): void {
    while (choice.early[0] && choice.early[0].numBefore <= choice.numTokens) {
      const delta = choice.early.shift();
      if (!delta) return;
      if (!choice.hasGoneOn && delta.tokenIds.length > 0) {
        choice.hasGoneOn = true;
        this.#onGoneOn(this.#nowMs() - choice.lastTokenMs);
      }
      this.#tell(choice, delta);
    }
  }

  #tell(choice: Choice, delta: EngineDelta): void {
    choice.numTokens += delta.tokenIds.length;
    if (delta.finish === null) this.#onDelta(delta);
    else this.#end(choice, delta);
  }

  #end(choice: Choice, delta: EngineDelta): void {
    choice.place = 'ended';
    choice.early.length = 0;
    this.#onDelta(delta);
    if (this.#choices.every(({ place }) => place === 'ended')) this.#target.drop();
  }

  #keep(): void {
    if (this.#isKept) return;
    if (!this.#source) return;
    this.#isKept = true;
    this.#source.keep();
  }
}

function isLoss({ error, finish }: EngineDelta): boolean {
  return finish === 'error' && error?.refused === 'engine_lost';
}

function lossOf(choice: number): EngineDelta {
  const message = 'the instance that had taken it over was lost';
  return { ...emptyDelta(choice), finish: 'error', error: { refused: 'engine_lost', message, retryAfterS: 1 } };
}
