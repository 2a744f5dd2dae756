// What the documents point at exists: files and folders that they name, and their links.
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { output, root } from '../../scripts/run.ts';

const read = (path: string) => readFileSync(join(root, path), 'utf8');

const files = output('git', ['ls-files', '-co', '--exclude-standard']).split('\n').filter(Boolean);

/** Inline code and fenced blocks: the places where a word with a slash is a path. */
function codeOf(markdown: string): string[] {
  const blocks = [...markdown.matchAll(/^ *```.*\n([^]*?)^ *```/gm)].map(([, block = '']) => block);
  const inline = [...markdown.replaceAll(/^ *```[^]*?^ *```/gm, '').matchAll(/`([^`]+)`/g)].map(
    ([, code = '']) => code,
  );
  return [...blocks, ...inline];
}

const PATH =
  /(?<![\w./-])(?:(?:[\w*.-]+\/)*[\w*.-]+\.(?:ts|js|proto|md|html|css|json|txt|sh|yaml)|(?:[\w.-]+\/)+)(?![\w/])/g;

/** Folders of a drawn tree: indentation says what lies in what. */
function treePaths(block: string): string[] {
  const parents: { readonly indent: number; readonly path: string }[] = [];
  return [...block.matchAll(/^( *)([\w./-]+(?:\/|\.js))(?=\s)/gm)].map(([, spaces = '', name = '']) => {
    while (parents.length > 0 && parents.at(-1)!.indent >= spaces.length) parents.pop();
    const path = (parents.at(-1)?.path ?? '') + name;
    parents.push({ indent: spaces.length, path });
    return path;
  });
}

/** Documents name files from the root, from src/, or by the end of their path where that is clear. */
function isThere(path: string): boolean {
  const pattern = path.replace(/[.+]/g, '\\$&').replaceAll('*', '[^/]*');
  const end = new RegExp(path.endsWith('/') ? `(^|/)${pattern}` : `(^|/)${pattern}$`);
  return files.some((file) => end.test(file));
}

const tree = /^```\n(bin\/[^]*?)^```/m.exec(read('docs/structure.md'))?.[1] ?? '';

test('the tree of docs/structure.md is the one on disk', () => {
  const paths = treePaths(tree);
  expect(paths).toContain('src/engine/jit/asm/');
  expect(paths.filter((path) => !existsSync(join(root, path)))).toEqual([]);
});

test('docs/structure.md draws every module', () => {
  const drawn = treePaths(tree);
  const modules = globSync(['src/*/', 'src/{engine,service}/*/'], { cwd: root }).filter((path) => path !== 'src');
  expect(modules.length).toBeGreaterThan(15);
  expect(modules.filter((path) => !drawn.some((one) => one.startsWith(`${path}/`)))).toEqual([]);
});

test.each(['structure', 'lifecycle', 'kernels'])('docs/%s.md names files and folders that exist', (name) => {
  const text = read(`docs/${name}.md`).replace(tree, '');
  const named = codeOf(text).flatMap((code) => code.match(PATH) ?? []);
  expect(named.length).toBeGreaterThan(5);
  expect(named.filter((path) => !isThere(path))).toEqual([]);
});

/** As GitHub makes them of headings. */
function anchors(markdown: string): Set<string> {
  const headings = [...markdown.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => heading);
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replace(/[^\w\- ]/g, '')
        .replaceAll(' ', '-'),
    ),
  );
}

const documents = files.filter((file) => /^(?:[^/]+|(?:docs|bench|examples)\/.*)\.md$/.test(file));

test.each(documents)('%s: its relative links resolve', (document) => {
  const text = read(document);
  const targets = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target);
  const broken = targets.filter((target) => {
    if (/^[a-z]+:/.test(target)) return false;
    const [path = '', anchor] = target.split('#');
    const file = path === '' ? document : join(dirname(document), path);
    return !existsSync(join(root, file)) || (anchor !== undefined && !anchors(read(file)).has(anchor));
  });
  expect(broken).toEqual([]);
});
