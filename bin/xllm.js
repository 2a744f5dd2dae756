#!/usr/bin/env node
// Entry of the command line. Plain JavaScript without static imports, so that an old Node can still read it and say
// what to do.
const [major] = process.versions.node.split('.').map(Number);
if (major < 24) {
  console.error(`xllm needs Node 24 or newer; this is ${process.version}. This works without changing your system:

  npx --yes --package=node@24 --package=xllm xllm ${process.argv.slice(2).join(' ')}
`);
  process.exit(1);
}
void (async () => {
  const { enableCompileCache } = await import('node:module');
  enableCompileCache();
  const { existsSync } = await import('node:fs');
  // Sources in the repository, compiled files in the published package.
  const sources = new URL('../src/cli/main.ts', import.meta.url);
  const { main } = await import(
    existsSync(sources) ? sources.href : new URL('../src/cli/main.js', import.meta.url).href
  );
  await main(process.argv.slice(2));
})();
