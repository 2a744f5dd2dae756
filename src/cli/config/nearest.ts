// Owns "did you mean": the nearest known word to one that is not known.

/** The known word with the smallest edit distance, or null when none is near (more than a third of the letters differ). */
export function nearestWord(word: string, known: Iterable<string>): string | null {
  let best: string | null = null;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(word, candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance with one row of memory. */
function editDistance(a: string, b: string): number {
  const row = Int32Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let i = 1; i <= a.length; i++) {
    let diagonal = row[0]!;
    row[0] = i;
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? diagonal : 1 + Math.min(diagonal, row[j]!, row[j - 1]!);
      diagonal = row[j]!;
      row[j] = cost;
    }
  }
  return row[b.length]!;
}

/** " Did you mean X?" or nothing. */
export function didYouMean(word: string, known: Iterable<string>): string {
  const nearest = nearestWord(word, known);
  return nearest === null ? '' : ` Did you mean ${nearest}?`;
}
