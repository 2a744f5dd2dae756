// A sequence's way out: whatever happens in whatever order, it goes on at one place only, and nobody waits for ever.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { nextOutgoing, type OutgoingEvent, type OutgoingState } from './outgoing-state.ts';

const events: readonly OutgoingEvent[] = ['begun', 'reserved', 'refused', 'settled', 'taken', 'kept', 'lost', 'ended'];
const states: readonly OutgoingState[] = ['queued', 'reserving', 'moving', 'offered', 'over'];

test('any order of events: asked and offered at most once, and one end', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...events), { maxLength: 30 }), (order) => {
      let state: OutgoingState = 'queued';
      const actions: string[] = [];
      for (const event of order) {
        const turn = nextOutgoing(state, event);
        if (!turn) continue;
        // It stays here only where the target has not been told to go on, or has said no.
        if (turn.actions.includes('keep')) expect(state !== 'offered' || event === 'refused').toBe(true);
        if (turn.actions.includes('hand over')) expect([state, event]).toEqual(['offered', 'taken']);
        state = turn.to;
        actions.push(...turn.actions);
      }
      const count = (action: string) => actions.filter((one) => one === action).length;
      expect(count('reserve')).toBeLessThanOrEqual(1);
      expect(count('offer')).toBeLessThanOrEqual(1);
      expect(count('keep') + count('hand over') + count('fail')).toBeLessThanOrEqual(1);
    }),
  );
});

test('a lost pairing, an ended sequence and a wish to stay end it in every state', () => {
  for (const state of states.filter((one) => one !== 'over'))
    for (const event of ['lost', 'ended', 'kept'] as const) expect(nextOutgoing(state, event)?.to).toBe('over');
  for (const event of events) expect(nextOutgoing('over', event)).toBeNull();
});

test('who was asked for room and is not needed any more is told', () => {
  for (const state of ['reserving', 'moving', 'offered'] as const)
    for (const event of ['ended', 'kept'] as const)
      expect(nextOutgoing(state, event)?.actions, `${state} ${event}`).toContain('cancel');
});
