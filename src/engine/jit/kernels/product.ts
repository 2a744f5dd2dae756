// Owns the kernel of a product with a packed matrix: which thread multiplies which strip with which rows.
// Legend: M rows of x, N rows of W (columns of the product), K their length.
import type { Assembler } from '../asm/assembler.ts';
import { emitFunction } from '../asm/function.ts';
import { type Mem, mem, sized } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { type Gpr, rax, rdx } from '../asm/registers.ts';
import { tensorField } from './abi.ts';
import { productField, type StripLayout, TILE_ROWS } from './product-abi.ts';
import { accumulatorBytes, TileEmitter, type TileRegisters } from './product-tile.ts';

/** Pieces of work per thread where there are strips enough: a thread that loses its core delays the rest by one. */
const PIECES_PER_THREAD = 8;

/**
 * dst F32 [M,N] = x · Wᵀ; src[0] the records of x [M,K] (`quantise`), the node block names W [N,K]. Rows of x are cut
 * into tiles of TILE_ROWS and a last one of fewer, tiles into chunks whose records stay in the second-level cache. A
 * piece of work is a few strips by one chunk; threads claim pieces until none are left. Every output is one lane's
 * sum over all blocks in order: it does not depend on tile, chunk, piece or thread.
 */
export function emitProduct(layout: StripLayout): MachineCode {
  return emitFunction(`product_${layout.format}_${layout.isa}`, 4, (a, f) => {
    const [dst, ith, nth, node] = f.args as [Gpr, Gpr, Gpr, Gpr];
    const local = {
      numThreads: f.local(),
      numColumns: f.local(),
      numStrips: f.local(),
      stripsPerPiece: f.local(),
      piecesPerChunk: f.local(),
      numPieces: f.local(),
      numTiles: f.local(),
      lastRows: f.local(),
      records: f.local(),
      out: f.local(),
      chunkTiles: f.local(),
      chunkRows: f.local(),
      chunkRecords: f.local(),
      chunkOut: f.local(),
    };
    a.movsxd(rax, nth);
    a.mov(local.numThreads, rax);
    f.release(ith, nth);
    f.take(rax);
    f.take(rdx);
    const [strip, records, out, outStride, rowsLeft] = [f.gpr(), f.gpr(), f.gpr(), f.gpr(), f.gpr()];
    const [accumulators, block, count, tiles, strips] = [f.gpr(), f.gpr(), f.gpr(), f.gpr(), f.gpr()];
    const registers: TileRegisters = { strip, records, out, outStride, rowsLeft, accumulators, block, count };
    a.lea(accumulators, f.local(accumulatorBytes(TILE_ROWS) + 64));
    a.add(accumulators, 63);
    a.and(accumulators, -64);

    emitSizes(a, layout, { dst, node, outStride, t: block }, local);
    const [numBlocks, weights, stripBytes] = [
      mem(node, productField.numBlocks),
      mem(node, productField.weights),
      mem(node, productField.stripBytes),
    ];

    // The tile of each number of rows is a routine of its own.
    const routines = Array.from({ length: TILE_ROWS }, (_, i) => ({ rows: i + 1, label: a.label(`tile_of_${i + 1}`) }));
    const full = routines[TILE_ROWS - 1]!;

    const [claim, nextStrip, nextPiece, finish] = [a.label('claim'), a.label('strip'), a.label('piece'), f.exit];
    a.bind(claim);
    a.mov(rax, 1);
    a.lockXadd(mem(node, productField.claimed), rax);
    a.cmp(rax, local.numPieces);
    a.jae(nextPiece);
    a.mov(rdx, 0);
    a.div(local.piecesPerChunk);
    // rax the chunk, rdx the piece in it.
    a.imul(rdx, local.stripsPerPiece);
    a.mov(strips, local.numStrips);
    a.sub(strips, rdx);
    a.cmp(strips, local.stripsPerPiece);
    a.cmovg(strips, local.stripsPerPiece);
    a.mov(strip, stripBytes);
    a.imul(strip, rdx);
    a.add(strip, weights);
    a.imul3(out, rdx, layout.rows);
    a.mov(rowsLeft, local.numColumns);
    a.sub(rowsLeft, out);
    a.shl(out, 2);
    a.add(out, local.out);
    // The chunk's tiles, and whether the tile of fewer rows is among its rows.
    a.imul(rax, mem(node, productField.chunkTiles));
    a.mov(tiles, local.numTiles);
    a.sub(tiles, rax);
    a.mov(count, 0);
    a.cmp(tiles, mem(node, productField.chunkTiles));
    a.cmovg(tiles, mem(node, productField.chunkTiles));
    a.mov(local.chunkTiles, tiles);
    a.cmovle(count, local.lastRows);
    a.mov(local.chunkRows, count);
    a.imul3(rax, rax, TILE_ROWS);
    a.mov(rdx, rax);
    a.imul(rdx, outStride);
    a.add(out, rdx);
    a.mov(local.chunkOut, out);
    a.imul(rax, numBlocks);
    a.imul3(rax, rax, layout.record.bytes);
    a.add(rax, local.records);
    a.mov(local.chunkRecords, rax);

    a.bind(nextStrip);
    a.mov(records, local.chunkRecords);
    a.mov(out, local.chunkOut);
    const [last, stripDone] = [a.label('last_tile'), a.label('strip_done')];
    a.mov(tiles, local.chunkTiles);
    a.test(tiles, tiles);
    a.je(last);
    a.call(full.label);
    a.bind(last);
    a.mov(tiles, 1);
    a.mov(rax, local.chunkRows);
    for (const { rows, label } of routines.slice(0, -1)) {
      const other = a.label('other');
      a.cmp(rax, rows);
      a.jne(other);
      a.call(label);
      a.jmp(stripDone);
      a.bind(other);
    }
    a.bind(stripDone);
    a.add(strip, stripBytes);
    a.sub(rowsLeft, layout.rows);
    a.add(local.chunkOut, 4 * layout.rows);
    a.sub(strips, 1);
    a.jne(nextStrip);
    a.jmp(claim);

    a.bind(nextPiece);
    emitFinish(a, node, local.numThreads, finish);

    for (const { rows, label } of routines) {
      const tile = new TileEmitter(a, layout, registers, rows);
      a.align(64);
      a.bind(label);
      tile.emitConstants();
      const loop = a.here('tile');
      tile.emit(numBlocks);
      a.sub(tiles, 1);
      a.jne(loop);
      a.ret();
    }
  });
}

interface Sizes {
  readonly numThreads: Mem;
  readonly numColumns: Mem;
  readonly numStrips: Mem;
  readonly stripsPerPiece: Mem;
  readonly piecesPerChunk: Mem;
  readonly numPieces: Mem;
  /** Full tiles, and the rows of the last one if it is not. */
  readonly numTiles: Mem;
  readonly lastRows: Mem;
  readonly records: Mem;
  readonly out: Mem;
}

/** Reads shapes and addresses, and cuts the work into pieces. */
function emitSizes(
  a: Assembler,
  layout: StripLayout,
  { dst, node, outStride, t }: Readonly<Record<'dst' | 'node' | 'outStride' | 't', Gpr>>,
  sizes: Sizes,
): void {
  const divide = (by: Mem | Gpr) => {
    a.mov(rdx, 0);
    a.div(by);
  };
  a.mov(outStride, mem(dst, tensorField.nb + 8));
  a.mov(rax, mem(dst, tensorField.data));
  a.mov(sizes.out, rax);
  a.mov(rax, mem(dst, tensorField.src));
  a.mov(rax, mem(rax, tensorField.data));
  a.mov(sizes.records, rax);
  a.mov(rax, mem(dst, tensorField.ne + 8));
  a.mov(t, TILE_ROWS);
  divide(t);
  a.mov(sizes.numTiles, rax);
  a.mov(sizes.lastRows, rdx);
  a.mov(rax, mem(dst, tensorField.ne));
  a.mov(sizes.numColumns, rax);
  a.add(rax, layout.rows - 1);
  a.shr(rax, Math.log2(layout.rows));
  a.mov(sizes.numStrips, rax);
  a.imul3(t, sizes.numThreads, PIECES_PER_THREAD);
  divide(t);
  a.mov(t, 1);
  a.cmp(rax, t);
  a.cmovl(rax, t);
  a.mov(sizes.stripsPerPiece, rax);
  a.mov(t, rax);
  a.add(rax, sizes.numStrips);
  a.sub(rax, 1);
  divide(t);
  a.mov(sizes.piecesPerChunk, rax);
  a.mov(t, rax);
  // At least one chunk: the tile of fewer rows belongs to the last.
  a.mov(rax, sizes.numTiles);
  a.add(rax, mem(node, productField.chunkTiles));
  a.sub(rax, 1);
  divide(sized(mem(node, productField.chunkTiles), 8));
  a.mov(rdx, 1);
  a.cmp(rax, rdx);
  a.cmovl(rax, rdx);
  a.imul(rax, t);
  a.mov(sizes.numPieces, rax);
}

/** The thread that comes last leaves the counters as it found them. */
function emitFinish(a: Assembler, node: Gpr, numThreads: Mem, exit: Parameters<Assembler['jmp']>[0]): void {
  a.mov(rax, 1);
  a.lockXadd(mem(node, productField.finished), rax);
  a.add(rax, 1);
  a.cmp(rax, numThreads);
  a.jne(exit);
  a.mov(rax, 0);
  a.mov(mem(node, productField.claimed), rax);
  a.mov(mem(node, productField.finished), rax);
  a.jmp(exit);
}
