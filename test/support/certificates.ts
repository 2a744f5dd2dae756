// Owns certificates for tests: an authority and a server's certificate for 127.0.0.1, made by openssl.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Paths of PEM files. */
export interface TestCertificates {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  readonly remove: () => void;
}

export function makeCertificates(hosts = 'IP:127.0.0.1,DNS:localhost'): TestCertificates {
  const folder = mkdtempSync(join(tmpdir(), 'xllm-test-certificates-'));
  const path = (name: string) => join(folder, name);
  const openssl = (...args: (string | string[])[]) => execFileSync('openssl', args.flat(), { stdio: 'ignore' });
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl(['req', '-x509', newKey, '-keyout', path('ca.key'), '-out', path('ca.pem')].flat(), [
    '-subj',
    '/CN=test authority',
    '-days',
    '2',
  ]);
  openssl('req', newKey, '-keyout', path('key.pem'), '-out', path('request.pem'), '-subj', '/CN=test server');
  writeFileSync(path('extensions'), `subjectAltName=${hosts}\n`);
  openssl(
    ['x509', '-req', '-in', path('request.pem'), '-CA', path('ca.pem'), '-CAkey', path('ca.key')],
    ['-CAcreateserial', '-out', path('cert.pem'), '-days', '2', '-extfile', path('extensions')],
  );
  return {
    ca: path('ca.pem'),
    cert: path('cert.pem'),
    key: path('key.pem'),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
