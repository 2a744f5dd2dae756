// Owns how `xllm models` writes sizes.

/** Decimal, as model repositories state them: 98.4 MB, 1.83 GB. */
export function megabytes(numBytes: number): string {
  if (numBytes >= 1e9) return `${(numBytes / 1e9).toFixed(2)} GB`;
  return numBytes >= 1e5 ? `${(numBytes / 1e6).toFixed(1)} MB` : `${(numBytes / 1e3).toFixed(1)} kB`;
}
