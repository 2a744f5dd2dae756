// Owns the states of a sequence's way out of this instance, and what is to be done at each turn. Pure.

/**
 * queued: not begun. reserving: the target has been asked for room. moving: it has room, blocks travel. offered: it has
 * been told to go on, and may be doing so. over: the transfer has ended one way or another.
 */
export type OutgoingState = 'queued' | 'reserving' | 'moving' | 'offered' | 'over';

/**
 * begun: the sequence has had its first row. settled: it stands still. refused, taken: by the target. kept: the service
 * wants no hand-off any more. lost: the pairing is over. ended: the sequence is gone (aborted, finished).
 */
export type OutgoingEvent = 'begun' | 'reserved' | 'refused' | 'settled' | 'taken' | 'kept' | 'lost' | 'ended';

/**
 * keep: the sequence goes on here. hand over: it ends here. fail: nobody knows whether the target goes on with it, so it
 * must not go on here: the service settles it. cancel: the target is told to forget it.
 */
export type OutgoingAction = 'reserve' | 'offer' | 'keep' | 'hand over' | 'fail' | 'cancel';

interface Turn {
  readonly to: OutgoingState;
  readonly actions: readonly OutgoingAction[];
}

const over = (...actions: OutgoingAction[]): Turn => ({ to: 'over', actions });

const turns: Readonly<Record<OutgoingState, Partial<Readonly<Record<OutgoingEvent, Turn>>>>> = {
  queued: {
    begun: { to: 'reserving', actions: ['reserve'] },
    kept: over('keep'),
    lost: over('keep'),
    ended: over(),
  },
  reserving: {
    reserved: { to: 'moving', actions: [] },
    refused: over('keep'),
    kept: over('keep', 'cancel'),
    lost: over('keep'),
    ended: over('cancel'),
  },
  moving: {
    settled: { to: 'offered', actions: ['offer'] },
    refused: over('keep'),
    kept: over('keep', 'cancel'),
    lost: over('keep'),
    ended: over('cancel'),
  },
  offered: {
    taken: over('hand over'),
    refused: over('keep'),
    kept: over('fail', 'cancel'),
    lost: over('fail'),
    ended: over('cancel'),
  },
  over: {},
};

/** null: the event says nothing new in that state (a late answer, a second look). */
export function nextOutgoing(state: OutgoingState, event: OutgoingEvent): Turn | null {
  return turns[state][event] ?? null;
}
