// Owns the progress bar of a download: one line that is redrawn in a terminal, a line per quarter elsewhere.
import type { Progress } from '../files/resolve/settings.ts';

const WIDTH = 28;
const REDRAW_MS = 100;
const sourceNames: Readonly<Record<Progress['source'], string>> = { hub: 'Hugging Face', pypi: 'PyPI' };

export interface ProgressBar {
  readonly show: (progress: Progress) => void;
  readonly end: () => void;
}

interface Output {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

export function createProgressBar(output: Output, nowMs: () => number = () => performance.now()): ProgressBar {
  let lastMs = Number.NEGATIVE_INFINITY;
  let lastLine = '';
  let startMs: number | null = null;
  return {
    show: (progress) => {
      startMs ??= nowMs();
      const line = output.isTTY ? barLine(progress, nowMs() - startMs) : plainLine(progress);
      const isDue = progress.state !== 'receiving' || !output.isTTY || nowMs() - lastMs >= REDRAW_MS;
      if (line === lastLine || !isDue) return;
      lastMs = nowMs();
      lastLine = line;
      output.write(output.isTTY ? `\r\x1b[K${line}` : `${line}\n`);
    },
    end: () => {
      if (output.isTTY && lastLine !== '') output.write('\n');
    },
  };
}

function barLine({ file, source, state, receivedBytes, totalBytes }: Progress, elapsedMs: number): string {
  if (state === 'waiting') return `${file}: another process is fetching it; waiting`;
  if (state === 'checking') return `${file}: checking`;
  if (state === 'done') return `${file}: fetched from ${sourceNames[source]}`;
  if (totalBytes <= 0) return `${file}: fetching from ${sourceNames[source]}`;
  const share = Math.min(1, receivedBytes / totalBytes);
  const filled = Math.round(share * WIDTH);
  const rate = elapsedMs > 0 ? receivedBytes / elapsedMs / 1000 : 0;
  const bar = `${'█'.repeat(filled)}${'░'.repeat(WIDTH - filled)}`;
  return `${file} ${bar} ${(share * 100).toFixed(0)} % of ${(totalBytes / 1e6).toFixed(0)} MB, ${rate.toFixed(1)} MB/s`;
}

function plainLine({ file, source, state, receivedBytes, totalBytes }: Progress): string {
  if (state !== 'receiving') return barLine({ file, source, state, receivedBytes, totalBytes }, 0);
  const quarter = totalBytes > 0 ? Math.floor((4 * receivedBytes) / totalBytes) * 25 : 0;
  return `${file}: fetching from ${sourceNames[source]}, ${quarter} % of ${(totalBytes / 1e6).toFixed(0)} MB`;
}
