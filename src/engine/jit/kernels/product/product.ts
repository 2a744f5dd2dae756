// Owns the kernel of a product with a packed matrix: how its op is cut into pieces, and what a piece does.
// Legend: M rows of x, N columns of the product (rows of W), K their length, C rows of x in a tile.
import { invariant } from '../../../../common/errors.ts';
import { type Label, mem } from '../../asm/operands.ts';
import { type Gpr, rax, rdx } from '../../asm/registers.ts';
import type { MachineCode } from '../../asm/program.ts';
import { emitOp, type OpFrame, opMem } from '../op.ts';
import { BLOCK } from './abi.ts';
import { FloatTile, floatBlockBytes } from './float-tile.ts';
import { IntegerTile } from './integer-tile.ts';
import { type ProductKind, productField, tileRowsOf } from './product-op.ts';
import { MAX_NEXT_LINES, type Prefetch, TileCode, type TileRegisters } from './registers.ts';
import { emitStore, type OutPlaces, outColumns, scratchBytes } from './store.ts';

const MAX_PIECES_PER_THREAD = 16;
const LINE_BYTES = 64;
/** Instructions, see `isAheadWorth`. */
const MANY_PER_LINE = 15;

/**
 * out[m, n] = Σ_k x[m, k] W[n, k] (+ bias[n]) (+ out[m, n]); or of 2 N rows of W act(gate) * up. `opField.rows` is M.
 *
 * Rows of x are cut into chunks whose records stay in the second-level cache, and chunks into tiles of C rows and a last
 * one of fewer. A piece is some strips of W by a chunk. While the tiles of a chunk take turns with a strip, each brings
 * its share of the next strip to the second-level cache. Every output is one lane's sum over k in order: it does not
 * depend on tile, chunk, piece or thread.
 */
export function emitProduct(kind: ProductKind): MachineCode {
  const { layout, isa, isFine, gate } = kind;
  invariant(layout.kind === 'integer' || !isFine, 'fine activations are for integer weights');
  const name = ['product', layout.format.toLowerCase(), isFine ? 'fine' : null, gate, isa].filter(Boolean).join('_');
  let pieces: Pieces | undefined;
  return emitOp(
    name,
    (o) => {
      pieces = emitCut(o, kind);
    },
    (o) => {
      invariant(pieces, 'pieces are cut before they are done');
      emitPiece(o, kind, pieces);
    },
  );
}

type Pieces = ReturnType<typeof emitCut>;

/** Leaves the number of pieces in rax. Pieces are numbered chunk by chunk; the first ones of a chunk may have a strip more. */
function emitCut({ a, f, op, numRows, numThreads }: OpFrame, kind: ProductKind) {
  const pieces = {
    numChunks: f.local(),
    chunkRows: f.local(),
    perChunk: f.local(),
    strips: f.local(),
    extraStrips: f.local(),
  };
  f.take(rdx);
  const t = f.gpr();
  const divide = (by: Gpr | typeof numRows) => {
    a.mov(rdx, 0);
    a.div(by);
  };
  const roundUpDivide = (by: typeof numRows) => {
    a.add(rax, by);
    a.sub(rax, 1);
    divide(by);
  };
  const done = a.label('cut');
  a.mov(rax, numRows);
  a.test(rax, rax);
  a.je(done);
  roundUpDivide(opMem(op, productField.maxChunkRows));
  a.mov(pieces.numChunks, rax);
  a.mov(rax, numRows);
  roundUpDivide(pieces.numChunks);
  a.mov(t, tileRowsOf(kind));
  a.add(rax, t);
  a.sub(rax, 1);
  divide(t);
  a.imul(rax, t);
  a.mov(pieces.chunkRows, rax);

  a.mov(rax, numRows);
  a.imul(rax, opMem(op, productField.rowCycles));
  a.add(rax, opMem(op, productField.stripCycles));
  a.imul(rax, opMem(op, productField.numStrips));
  a.mov(t, opMem(op, productField.pieceCycles));
  a.imul(t, numThreads);
  divide(t);
  a.mov(t, MAX_PIECES_PER_THREAD);
  a.cmp(rax, t);
  a.cmovg(rax, t);
  a.mov(t, 1);
  a.cmp(rax, t);
  a.cmovl(rax, t);
  a.imul(rax, numThreads);
  roundUpDivide(pieces.numChunks);
  a.cmp(rax, opMem(op, productField.numStrips));
  a.cmovg(rax, opMem(op, productField.numStrips));
  a.mov(pieces.perChunk, rax);
  a.mov(rax, opMem(op, productField.numStrips));
  divide(pieces.perChunk);
  a.mov(pieces.strips, rax);
  a.mov(pieces.extraStrips, rdx);
  a.mov(rax, pieces.numChunks);
  a.imul(rax, pieces.perChunk);
  a.bind(done);
  f.release(rdx, t);
  return pieces;
}

function emitPiece({ a, f, op, numRows, firstRow }: OpFrame, kind: ProductKind, pieces: Pieces): void {
  const { layout, isa, gate } = kind;
  const fullRows = tileRowsOf(kind);
  const isWide = isa === 'avx512';
  f.take(rdx);
  const out = f.gpr();
  const [strip, x, stride, block, header, count] = [f.gpr(), f.gpr(), f.gpr(), f.gpr(), f.gpr(), f.gpr()];
  const [x0, x3, outStride, columnsLeft] = [f.gpr(), f.gpr(), f.gpr(), f.gpr()];
  const last = f.gpr();
  const [nextStripPlace, firstLane] = isWide ? [last, null] : [null, last];
  const [stripsLeft, chunkX, chunkOut] = [f.local(), f.local(), f.local()];
  const [numTiles, tilesLeft, smallTiles, smallRows] = [f.local(), f.local(), f.local(), f.local()];
  const prefetchStep = f.local();
  const length = opMem(op, productField.length);
  const registers: TileRegisters = { strip, x, stride, firstLane, block, header, count, x0, x3, prefetch: null };
  const places: OutPlaces = {
    out,
    outStride,
    columnsLeft,
    numColumns: opMem(op, productField.numColumns),
    bias: opMem(op, productField.bias),
    adds: opMem(op, productField.adds),
    scratch: f.local(scratchBytes(fullRows)),
  };
  const columns = outColumns(gate);

  a.mov(rdx, 0);
  a.div(pieces.perChunk);
  // rax the chunk, rdx the piece in it: its strips, and the first of them.
  a.mov(count, pieces.strips);
  a.mov(block, rdx);
  a.imul(block, count);
  a.lea(header, mem(count, 1));
  a.cmp(rdx, pieces.extraStrips);
  a.cmovl(count, header);
  a.mov(stripsLeft, count);
  a.cmp(rdx, pieces.extraStrips);
  a.cmovg(rdx, pieces.extraStrips);
  a.add(block, rdx);
  a.mov(strip, opMem(op, productField.stripBytes));
  a.imul(strip, block);
  a.add(strip, opMem(op, productField.weights));
  a.imul3(block, block, columns);
  a.mov(columnsLeft, places.numColumns);
  a.sub(columnsLeft, block);
  a.shl(block, 2);
  a.add(block, opMem(op, productField.out));
  a.mov(outStride, opMem(op, productField.outStride));
  a.mov(stride, opMem(op, productField.xStride));
  a.imul(rax, pieces.chunkRows);
  a.mov(count, rax);
  a.add(count, firstRow);
  a.mov(rdx, count);
  a.imul(count, outStride);
  a.add(block, count);
  a.mov(chunkOut, block);
  a.mov(count, rdx);
  a.imul(count, stride);
  a.add(count, opMem(op, productField.x));
  a.mov(chunkX, count);
  a.mov(count, numRows);
  a.sub(count, rax);
  a.mov(rax, count);
  a.cmp(rax, pieces.chunkRows);
  a.cmovg(rax, pieces.chunkRows);
  // Tiles of near-equal sizes: small ones, and before them those of a row more.
  a.mov(block, rax);
  a.add(rax, fullRows - 1);
  a.mov(count, fullRows);
  a.mov(rdx, 0);
  a.div(count);
  a.mov(numTiles, rax);
  a.mov(count, rax);
  a.mov(rax, block);
  a.mov(rdx, 0);
  a.div(count);
  a.mov(smallRows, rax);
  a.sub(count, rdx);
  a.mov(smallTiles, count);
  emitPrefetchStep();

  const nextStrip = a.here('strip');
  if (firstLane) a.mov(firstLane, 0);
  const nextLanes = a.here('lanes');
  const [several, tilesDone] = [a.label('several'), a.label('tiles_done')];
  a.mov(x, chunkX);
  a.mov(out, chunkOut);
  a.mov(rax, numTiles);
  a.mov(tilesLeft, rax);
  a.cmp(rax, 1);
  a.jne(several);
  a.mov(rax, smallRows);
  for (let C = fullRows; C > 0; C--) emitIf(C, isWide && isAheadWorth(kind, C) ? { kind: 'ahead' } : null, tilesDone);

  a.bind(several);
  const next = nextStripPlace && ({ kind: 'next', place: nextStripPlace, step: prefetchStep } as const);
  if (nextStripPlace) {
    a.mov(nextStripPlace, strip);
    a.add(nextStripPlace, opMem(op, productField.stripBytes));
  }
  const nextTile = a.here('tile');
  const tileDone = a.label('tile_done');
  a.mov(rax, smallRows);
  a.lea(count, mem(rax, 1));
  a.mov(block, tilesLeft);
  a.cmp(block, smallTiles);
  a.cmovg(rax, count);
  // At least two tiles: neither is smaller than half of the largest.
  for (let C = fullRows; C >= Math.ceil(fullRows / 2); C--) emitIf(C, next, tileDone);
  a.bind(tileDone);
  a.sub(tilesLeft, 1);
  a.jne(nextTile);
  a.bind(tilesDone);
  if (firstLane) {
    a.add(firstLane, 8);
    a.cmp(firstLane, 16);
    a.jb(nextLanes);
  }
  a.add(strip, opMem(op, productField.stripBytes));
  a.sub(columnsLeft, columns);
  a.add(chunkOut, 4 * columns);
  a.sub(stripsLeft, 1);
  a.jne(nextStrip);

  /** A tile of C rows, if rax says so. */
  function emitIf(C: number, prefetch: Prefetch | null, done: Label): void {
    const other = a.label('other_tile');
    a.cmp(rax, C);
    a.jne(other);
    emitTile(C, prefetch);
    a.imul3(rax, stride, C);
    a.add(x, rax);
    a.jmp(done);
    a.bind(other);
  }

  function emitTile(C: number, prefetch: Prefetch | null): void {
    const t = new TileCode(a, isa, { ...registers, prefetch });
    const tile = layout.kind === 'float' ? new FloatTile(t, layout, C) : new IntegerTile(t, layout, C, kind.isFine);
    tile.emitConstants();
    tile.emit(length);
    emitStore(t, tile, gate, places);
  }

  /** Each tile brings as much of the next strip. */
  function emitPrefetchStep(): void {
    const bytes = layout.kind === 'float' ? floatBlockBytes(layout) : layout.blockBytes;
    a.mov(count, numTiles);
    a.lea(rax, mem(count, Math.ceil(bytes / LINE_BYTES) - 1));
    a.mov(rdx, 0);
    a.div(count);
    a.mov(count, MAX_NEXT_LINES);
    a.cmp(rax, count);
    a.cmovg(rax, count);
    a.shl(rax, Math.log2(LINE_BYTES));
    a.mov(prefetchStep, rax);
  }
}

/**
 * Whether a lone tile of C rows asks memory ahead: where it has so many instructions per cache line of weights that the
 * core does not see far enough ahead by itself. With fewer it does better alone (both measured).
 */
function isAheadWorth({ layout, isFine }: ProductKind, C: number): boolean {
  if (layout.kind === 'float') {
    return (4 * (3 * C + 2)) / (floatBlockBytes(layout) / LINE_BYTES) > MANY_PER_LINE;
  }
  const { bits, groupSize, headerBytes, minima, blockBytes } = layout;
  const perGroup = (minima === null ? 11 : 14) * C + (headerBytes > 0 ? 12 : 2);
  const unpacking = { 4: 40, 5: 112, 6: 112, 8: 16 }[bits];
  const instructions = 24 * C * (isFine ? 2 : 1) + (BLOCK / groupSize) * perGroup + unpacking;
  return instructions / (blockBytes / LINE_BYTES) > MANY_PER_LINE;
}
