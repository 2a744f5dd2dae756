// Owns the seam between sequences that move and how their KV gets there: mapped pools on one host, TCP between hosts.
// It knows nothing of prefill or decode: a hand-off and a migration push the blocks of a sequence to an instance alike.

/** A block on its way: one page of one cache group. */
export interface BlockAddress {
  /** Chosen by the source; unique within the pairing. */
  readonly transfer: bigint;
  readonly group: number;
  readonly block: number;
}

export interface PushedBlock extends BlockAddress {
  /** The source's page. It must stay as it is until `push` has resolved. */
  readonly page: number;
  /** 32 hex digits of a full block; '': a partial one. */
  readonly digest: string;
}

/** The source's half. */
export interface KvTransport {
  /**
   * true: the target reads the source's own pages. Nothing is pushed; the hand-over names the pages, which are lent until
   * the target returns them.
   */
  readonly lends: boolean;
  /**
   * Resolves when the blocks are on their way and the source's pages are not read any more; slowly where the target
   * reads slowly. Rejects when the connection has failed: the pairing is over then.
   */
  push(blocks: readonly PushedBlock[]): Promise<void>;
  close(): void;
}

/** The target's half, where blocks are sent. */
export interface KvIntake {
  /**
   * Where the block's bytes are to go, `numBytes` of them; null: nobody wants it (any more), they are dropped. `digest`:
   * 32 hex digits of a full block, '': a partial one. Throws where that cannot be what was agreed: the pairing is over.
   */
  place(address: BlockAddress, numBytes: number, digest: string): Uint8Array | null;
  /** The block's bytes are where `place` said, and are what was sent. */
  placed(address: BlockAddress, digest: string): void;
  /** What arrived cannot be trusted (length, checksum): the pairing is over. */
  failed(error: Error): void;
}
