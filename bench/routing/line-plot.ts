// Owns small line plots as SVG text: panels side by side, one legend, no dependencies.

export interface Panel {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly x: readonly [number, number];
  readonly y: readonly [number, number];
  /** A level worth a line of its own. */
  readonly mark: { readonly y: number; readonly label: string };
  readonly lines: readonly {
    readonly label: string;
    readonly colour: string;
    readonly points: readonly (readonly [number, number])[];
  }[];
}

const panelWidth = 400;
const panelHeight = 280;
const margin = { left: 58, right: 14, top: 34, bottom: 46 };
const footer = 56;

export function linePlot(panels: readonly Panel[], note: string): string {
  const cell = { width: margin.left + panelWidth + margin.right, height: margin.top + panelHeight + margin.bottom };
  const width = cell.width * panels.length;
  const height = cell.height + footer;
  const legend = panels[0]?.lines ?? [];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="13">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...panels.map(
      (panel, i) => `<g transform="translate(${i * cell.width + margin.left} ${margin.top})">${draw(panel)}</g>`,
    ),
    ...legend.map(({ label, colour }, i) => {
      const x = margin.left + i * 150;
      const y = cell.height + 10;
      return `<path d="M${x} ${y}h26" stroke="${colour}" stroke-width="3"/>${text(x + 34, y + 4, label)}`;
    }),
    text(margin.left, cell.height + 40, note, 'fill="#555555"'),
    '</svg>',
    '',
  ].join('\n');
}

function draw({ title, xLabel, yLabel, x, y, mark, lines }: Panel): string {
  const toX = (value: number) => round(((value - x[0]) / (x[1] - x[0])) * panelWidth);
  const toY = (value: number) => round(panelHeight - ((value - y[0]) / (y[1] - y[0])) * panelHeight);
  // What lies below the axis leaves the panel at its edge.
  const path = (points: Panel['lines'][number]['points']) =>
    points.map(([px, py], i) => `${i === 0 ? 'M' : 'L'}${toX(px)} ${toY(Math.max(y[0], py))}`).join('');
  return [
    text(0, -14, title, 'font-weight="bold"'),
    ...ticks(x, 6).map(
      (value) =>
        `<path d="M${toX(value)} 0V${panelHeight}" stroke="#eeeeee"/>` +
        text(toX(value), panelHeight + 17, String(value), 'text-anchor="middle"'),
    ),
    ...ticks(y, 5).map(
      (value) =>
        `<path d="M0 ${toY(value)}H${panelWidth}" stroke="#eeeeee"/>` +
        text(-8, toY(value) + 4, String(value), 'text-anchor="end"'),
    ),
    `<path d="M0 ${toY(mark.y)}H${panelWidth}" stroke="#444444" stroke-dasharray="5 4"/>`,
    text(panelWidth - 4, toY(mark.y) - 5, mark.label, 'text-anchor="end" fill="#444444"'),
    ...lines.map(
      ({ colour, points }) =>
        `<path d="${path(points)}" fill="none" stroke="${colour}" stroke-width="2.5" stroke-linejoin="round"/>`,
    ),
    `<path d="M0 0V${panelHeight}H${panelWidth}" fill="none" stroke="#444444"/>`,
    text(panelWidth / 2, panelHeight + 38, xLabel, 'text-anchor="middle"'),
    text(0, 0, yLabel, `text-anchor="middle" transform="translate(-42 ${panelHeight / 2}) rotate(-90)"`),
  ].join('\n');
}

function text(x: number, y: number, content: string, more = ''): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x}" y="${y}" ${more}>${escaped}</text>`;
}

/** About `count` round values within the range. */
function ticks([from, to]: readonly [number, number], count: number): number[] {
  const rough = (to - from) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(from / step - 1e-9);
  return Array.from({ length: Math.floor(to / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toFixed(6)),
  );
}

const round = (value: number) => Math.round(value * 10) / 10;
