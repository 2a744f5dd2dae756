// The cache forgets the least recently used graph, and frees it.
import { expect, it } from 'vitest';
import { GraphCache } from './graph-cache.ts';

it('keeps the most recently used graphs', () => {
  const freed: string[] = [];
  const cache = new GraphCache<{ free(): void }>(2);
  const graph = (name: string) => ({ free: () => freed.push(name) });
  cache.set('a', graph('a'));
  cache.set('b', graph('b'));
  expect(cache.get('a')).toBeDefined();
  cache.set('c', graph('c'));
  expect(freed).toEqual(['b']);
  expect(cache.get('b')).toBeUndefined();
  expect(cache.size).toBe(2);
  cache.clear();
  expect(freed).toEqual(['b', 'a', 'c']);
});
