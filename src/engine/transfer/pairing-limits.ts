// Owns the times of a pairing, that both ends keep.

/** Each end is heard of this often. */
export const beatMs = 1_000;
/** Silent for this long, the pairing is over; what was lent may be read for this long after it was last renewed. */
export const leaseMs = 10_000;
/** Lent pages are renewed only while the target is heard of. */
export const freshMs = 3_000;
/** Reading lent pages stops this long before they may be written again. */
export const marginMs = 2_000;
/** For opening a pairing, and for the answer to a reservation. */
export const answerMs = 3_000;
/** A target that did not answer is not tried for this long: what was to go there stays. */
export const avoidMs = 5_000;
