// Owns how worker and child entry files are found, both as .ts sources and as .js after the build.

/**
 * URL of a sibling module, given its `.ts` name relative to the caller.
 * The build leaves strings alone, so `.ts` becomes `.js` here when the caller itself runs as `.js`.
 */
export function entryUrl(callerUrl: string, tsPath: string): URL {
  const path = callerUrl.endsWith('.ts') ? tsPath : tsPath.replace(/\.ts$/, '.js');
  return new URL(path, callerUrl);
}
