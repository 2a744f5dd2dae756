// Owns `npm run build`: dist/ is the published package, compiled, with a package.json of its own.
import { cpSync, globSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { root, run } from './run.ts';

const dist = join(root, 'dist');
rmSync(dist, { recursive: true, force: true });
if (!run('tsc', ['-p', 'tsconfig.build.json'])) process.exit(1);
// What tsc leaves behind: generated JavaScript with its declarations, and the files that pages and protocols consist of.
const assets = globSync('src/**/*.{html,css,js,svg,proto,py}', { cwd: root }).concat(
  globSync('src/**/generated/*.d.ts', { cwd: root }),
);
for (const file of assets) cpSync(join(root, file), join(dist, file));
for (const file of ['bin', 'LICENSE', 'NOTICE', 'README.md', 'CHANGELOG.md'])
  cpSync(join(root, file), join(dist, file), { recursive: true });

interface Manifest {
  readonly [key: string]: unknown;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly optionalDependencies: Readonly<Record<string, string>>;
}
const { name, version, description, license, type, engines, bin, dependencies, optionalDependencies } = JSON.parse(
  readFileSync(join(root, 'package.json'), 'utf8'),
) as Manifest;
// The Node pin stays behind: in a dependency it would change the Node of the project that installs it.
const platformPackages = Object.fromEntries(
  Object.entries(optionalDependencies).filter(([key]) => !key.startsWith('node-')),
);
const entry = (path: string) => ({ types: `./src/${path}.d.ts`, default: `./src/${path}.js` });
const manifest = {
  name,
  version,
  description,
  license,
  type,
  engines,
  bin,
  exports: {
    '.': entry('index'),
    './contract': { types: './src/contract/generated/xllm_pb.d.ts', default: './src/contract/generated/xllm_pb.js' },
    './contract/xllm.proto': './src/contract/xllm.proto',
    './package.json': './package.json',
  },
  dependencies,
  optionalDependencies: platformPackages,
};
writeFileSync(join(dist, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
console.log(`built ${dirname(join(dist, 'x'))}`);
