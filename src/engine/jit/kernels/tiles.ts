// Owns how a step's attention is cut into pieces of work: tiles of tokens, and parts of one token's positions. Pure.

/** Positions after which attention restarts its running maximum, sum and accumulator (the batch-invariance rule). */
export const CHUNK_POSITIONS = 512;

/** Query rows (tokens x heads of one kv head) of a full tile: a multiple of what kernels keep in registers. */
const TILE_ROWS = 48;
const REGISTER_ROWS = 6;

/** Below it, long single tokens are cut at chunks too, so that many threads find work. */
const ENOUGH_UNITS = 32;

/** Consecutive tokens of one row that attend together, over all they see or, as one of several parts, over one chunk. */
export interface Tile {
  /** Index of the row. */
  readonly row: number;
  /** Index of the first token in the step, and its position. */
  readonly firstToken: number;
  readonly firstPosition: number;
  readonly numTokens: number;
  /** 1: the tile is whole. */
  readonly numParts: number;
  readonly part: number;
  /** Where a part's positions start; they end with their chunk. */
  readonly partStart: number;
}

export interface TileRow {
  readonly firstPosition: number;
  readonly numTokens: number;
  readonly segments: readonly { readonly firstPosition: number }[];
}

/** Tokens of one row that attend together, at most; `group` is the number of query heads that share a kv head. */
export function tileTokens(group: number): number {
  const most = Math.max(1, Math.floor(TILE_ROWS / group));
  for (let tokens = most; tokens > 0; tokens--) if ((tokens * group) % REGISTER_ROWS === 0) return tokens;
  return most;
}

/** The work of a step, times the number of kv heads; how it is cut changes no result. Cheapest first, as rows mostly are. */
export function planTiles(rows: readonly TileRow[], group: number, numKvHeads: number): Tile[] {
  const perTile = tileTokens(group);
  const numWhole = rows.reduce((sum, { numTokens }) => sum + Math.ceil(numTokens / perTile), 0);
  const tiles: Tile[] = [];
  let firstToken = 0;
  for (const [row, { firstPosition, numTokens, segments }] of rows.entries()) {
    const firstChunk = Math.floor((segments[0]?.firstPosition ?? 0) / CHUNK_POSITIONS);
    const numChunks = Math.floor(firstPosition / CHUNK_POSITIONS) + 1 - firstChunk;
    const numParts = numTokens === 1 && numWhole * numKvHeads < ENOUGH_UNITS ? numChunks : 1;
    for (let done = 0; done < numTokens; done += perTile) {
      for (let part = 0; part < numParts; part++) {
        tiles.push({
          row,
          firstToken: firstToken + done,
          firstPosition: firstPosition + done,
          numTokens: Math.min(perTile, numTokens - done),
          numParts,
          part,
          partStart: Math.max((firstChunk + part) * CHUNK_POSITIONS, segments[0]?.firstPosition ?? 0),
        });
      }
    }
    firstToken += numTokens;
  }
  return tiles.sort((a, b) => cost(a) - cost(b) || a.firstToken - b.firstToken || a.part - b.part);
}

/** Products of a query with a key, about. */
function cost({ firstPosition, numTokens, numParts, partStart }: Tile): number {
  const end = firstPosition + numTokens;
  if (numParts > 1) return Math.min(end - partStart, CHUNK_POSITIONS);
  return numTokens * end;
}
