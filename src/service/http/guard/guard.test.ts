import { describe, expect, test } from 'vitest';
import { ApiKeys } from './api-keys.ts';
import { hostName, isLoopback } from './hosts.ts';
import { preflightHeaders } from './cors.ts';

describe('hosts', () => {
  test('names without port', () => {
    expect(hostName('localhost:8000')).toBe('localhost');
    expect(hostName('[::1]:8000')).toBe('::1');
    expect(hostName('Example.com')).toBe('Example.com');
    for (const odd of [undefined, '', ':80', 'a:b:c', 'a b', 'user@host', '[::1', 'a/b'])
      expect(hostName(odd)).toBeNull();
  });

  test('loopback', () => {
    for (const host of ['127.0.0.1', '127.1.2.3', 'localhost', 'x.localhost', '::1', '[::1]'])
      expect(isLoopback(host), host).toBe(true);
    for (const host of ['0.0.0.0', '::', '128.0.0.1', '127.0.0.1.x', 'localhost.x', 'xlocalhost', ''])
      expect(isLoopback(host), host).toBe(false);
  });
});

describe('keys', () => {
  test('one of several, exactly', () => {
    const keys = new ApiKeys(['a', 'bb', 'bb']);
    for (const given of ['Bearer a', 'bearer bb', 'Bearer  a', 'Bearer a '])
      expect(keys.accepts(given), given).toBe(true);
    for (const given of [undefined, '', 'a', 'Bearer', 'Bearer b', 'Bearer aa', 'Bearer a b', 'Basic a'])
      expect(keys.accepts(given), given).toBe(false);
    expect(new ApiKeys([]).required).toBe(false);
    expect(new ApiKeys([]).accepts('Bearer a')).toBe(false);
  });
});

test('a preflight cannot write headers of its own', () => {
  expect(preflightHeaders(['POST'], 'x\r\nset-cookie: a')['access-control-allow-headers']).toBe(
    'authorization, content-type, x-request-id',
  );
});
