// Owns what is counted of hand-offs in one instance.

export interface TransferFigures {
  /** Sequences that left, came, and were to leave but stayed. */
  numHandedOver: number;
  numTaken: number;
  numKept: number;
  /** Blocks and bytes sent to other hosts; blocks whose pages were lent or given on this one. */
  numBlocksPushed: number;
  numBytesPushed: number;
  numBlocksLent: number;
  /** Of sequences that came: bytes moved or copied before, and after, their first step here. */
  numBytesBeforeFirstStep: number;
  numBytesCopied: number;
}

export function newFigures(): TransferFigures {
  return {
    numHandedOver: 0,
    numTaken: 0,
    numKept: 0,
    numBlocksPushed: 0,
    numBytesPushed: 0,
    numBlocksLent: 0,
    numBytesBeforeFirstStep: 0,
    numBytesCopied: 0,
  };
}
