// Owns what a chunk reads: its bounds, and the addresses of its tiles, found through the row's segments.
import { mem } from '../../asm/operands.ts';
import { attentionField, headBytes, TILE_TOKENS, tileBytes } from '../abi.ts';
import { NUM_LANES } from '../lanes.ts';
import { CHUNK_POSITIONS } from '../tiles.ts';
import { stepLayout } from '../step-block.ts';
import { ADDRESSES_AHEAD, type Context, emitPrefetch, TILES_AHEAD, withGprs } from './context.ts';

/** Where a part starts; else the first position that the tile's first token sees, rounded down to a tile of 16. */
export function emitFirstChunk(c: Context): void {
  const { a, locals } = c;
  withGprs(c, 2, (position, zero) => {
    const found = a.label('first_found');
    a.mov(position, locals.partStart);
    a.cmp(locals.numParts, 1);
    a.jne(found);
    a.mov(position, locals.firstPosition);
    a.add(position, 1);
    a.sub(position, locals.window);
    a.mov(zero, 0);
    a.cmp(position, zero);
    a.cmovl(position, zero);
    a.and(position, -NUM_LANES);
    a.bind(found);
    a.mov(locals.position, position);
  });
}

/** The chunk from `position` on: to the next multiple of 512, or the position behind the tile's last token. */
export function emitChunkBounds(c: Context): void {
  const { a, locals } = c;
  withGprs(c, 4, (position, start, end, last) => {
    a.mov(position, locals.position);
    a.mov(start, position);
    a.and(start, -CHUNK_POSITIONS);
    a.mov(locals.chunkStart, start);
    a.lea(end, mem(start, CHUNK_POSITIONS));
    a.mov(last, locals.firstPosition);
    a.add(last, locals.numTokens);
    a.cmp(end, last);
    a.cmovg(end, last);
    a.mov(locals.chunkEnd, end);
    a.sub(position, start);
    a.mov(locals.firstColumn, position);
    a.sub(end, start);
    a.add(end, NUM_LANES - 1);
    a.and(end, -NUM_LANES);
    a.sub(end, position);
    a.shr(end, Math.log2(NUM_LANES));
    a.mov(locals.numTiles, end);
  });
}

/**
 * Addresses of the tiles that the chunk reads: its keys, its values, then the next chunk's first keys, to be fetched
 * meanwhile; behind the row's last position its tile again.
 */
export function emitStream(c: Context): void {
  const { a, sizes, locals } = c;
  const { segment, segmentBytes } = stepLayout;
  const { shape, scratch } = sizes;
  const { blockTokens } = shape;
  const tilesPerBlock = blockTokens / TILE_TOKENS;
  withGprs(c, 8, (position, place, tile, record, end, value, numTiles, last) => {
    a.mov(position, locals.position);
    a.mov(tile, 0);
    a.mov(record, locals.segment);
    a.mov(numTiles, locals.numTiles);
    a.mov(last, locals.firstPosition);
    a.add(last, locals.numTokens);
    a.sub(last, 1);
    const tiles = a.here('address');
    const found = a.label('segment_found');
    const ahead = a.label('address_ahead');
    const next = a.label('next_address');
    const find = a.here('segment');
    a.movsxd(place, mem(record, segment.firstPosition));
    a.movsxd(end, mem(record, segment.numTokens));
    a.add(end, place);
    a.cmp(position, end);
    a.jl(found);
    a.add(record, segmentBytes);
    a.jmp(find);
    a.bind(found);
    // Position in the segment, then its block's page and its tile there.
    a.neg(place);
    a.add(place, position);
    a.mov(value, place);
    a.sar(value, Math.log2(blockTokens));
    a.imul(value, mem(c.op, attentionField.pageBytes));
    a.add(value, mem(record, segment.page));
    if (tilesPerBlock > 1) {
      a.sar(place, Math.log2(TILE_TOKENS));
      a.and(place, tilesPerBlock - 1);
      a.imul3(place, place, tileBytes(shape));
      a.add(value, place);
    }
    a.imul3(place, locals.kvHead, headBytes(shape));
    a.add(value, place);
    a.mov(place, value);
    a.add(value, mem(c.op, attentionField.keyOffset));
    a.add(place, mem(c.op, attentionField.valueOffset));
    a.cmp(tile, numTiles);
    a.jge(ahead);
    a.mov(mem(c.scratch, scratch.stream, { index: tile, scale: 8 }), value);
    a.lea(end, mem(tile, 0, { index: numTiles }));
    a.mov(mem(c.scratch, scratch.stream, { index: end, scale: 8 }), place);
    a.mov(locals.segment, record);
    a.jmp(next);
    a.bind(ahead);
    a.lea(end, mem(tile, 0, { index: numTiles }));
    a.mov(mem(c.scratch, scratch.stream, { index: end, scale: 8 }), value);
    a.bind(next);
    a.add(tile, 1);
    a.add(position, NUM_LANES);
    a.cmp(position, last);
    a.cmovg(position, last);
    a.lea(end, mem(numTiles, ADDRESSES_AHEAD));
    a.cmp(tile, end);
    a.jl(tiles);
  });
}

/** Fetches the first tiles of keys at once: nothing did so before. */
export function emitFirstFetch(c: Context): void {
  const { a, sizes } = c;
  const { shape, scratch } = sizes;
  withGprs(c, 2, (tile, place) => {
    a.mov(tile, 0);
    const tiles = a.here('first_fetch');
    a.mov(place, mem(c.scratch, scratch.stream, { index: tile, scale: 8 }));
    emitPrefetch(c, mem(place), tileBytes(shape));
    a.add(tile, 1);
    a.cmp(tile, TILES_AHEAD);
    a.jl(tiles);
  });
}
