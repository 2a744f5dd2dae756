// Owns plain text tables: padded columns, numbers to the right.
import { styleText } from 'node:util';

export type Cell = string | number | null;

/** A missing figure is a dash; numbers keep about four significant digits. */
export function formatCell(cell: Cell): string {
  if (cell === null) return '-';
  if (typeof cell === 'string') return cell;
  if (Number.isInteger(cell)) return String(cell);
  return cell.toFixed(Math.abs(cell) >= 100 ? 1 : Math.abs(cell) >= 0.1 ? 2 : 4);
}

/** `header` bold where `isStyled`. A column is right-aligned when its first row holds a number or null. */
export function formatTable(header: readonly string[], rows: readonly (readonly Cell[])[], isStyled: boolean): string {
  const isRight = header.map((_, column) => typeof (rows[0]?.[column] ?? 0) === 'number');
  const texts = [header, ...rows.map((row) => row.map(formatCell))];
  const widths = header.map((_, column) => Math.max(...texts.map((row) => (row[column] ?? '').length)));
  const lines = texts.map((row) =>
    row
      .map((text, column) => (isRight[column] ? text.padStart(widths[column]!) : text.padEnd(widths[column]!)))
      .join('  ')
      .trimEnd(),
  );
  const [first = '', ...rest] = lines;
  return `${[isStyled ? styleText('bold', first, { validateStream: false }) : first, ...rest].join('\n')}\n`;
}

/** `label  value` lines, values aligned. */
export function formatPairs(pairs: readonly (readonly [label: string, value: Cell])[]): string {
  const width = Math.max(...pairs.map(([label]) => label.length));
  return pairs.map(([label, value]) => `${label.padEnd(width)}  ${formatCell(value)}\n`).join('');
}
