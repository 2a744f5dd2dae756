// Owns the files of the page at `/` and the headers that keep it to itself.
import { readFileSync } from 'node:fs';

export interface PageFile {
  readonly path: string;
  readonly about: string;
  readonly type: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Nothing from elsewhere, nothing inline, no frames: the page talks to its own server only. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const headers = {
  'content-security-policy': POLICY,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache',
};

export function pageFiles(): readonly PageFile[] {
  const file = (path: string, name: string, about: string, type: string): PageFile => ({
    path,
    about,
    type: `${type}; charset=utf-8`,
    headers,
    body: readFileSync(new URL(name, import.meta.url), 'utf8'),
  });
  return [
    file('/', 'index.html', 'A page to try the model.', 'text/html'),
    file('/page/style.css', 'style.css', 'Its looks.', 'text/css'),
    file('/page/page.js', 'page.js', 'Its behaviour.', 'text/javascript'),
  ];
}
