// Owns the check of a request body against its schema, and the wording of what is wrong with it.
import type { z } from 'zod';
import { XllmError } from '../../../common/errors.ts';
import type { Log } from '../../../common/log.ts';
import { type UnsupportedFields, unsupportedField } from './unsupported.ts';

const MAX_NAMED_FIELDS = 10;
const MAX_NAME_CHARS = 40;

/**
 * The body as the schema types it. Unknown fields are left out, with one debug line.
 * Throws XllmError `unsupported_parameter` or `invalid_request`, naming the field.
 */
export function parseBody<S extends z.ZodObject>(
  schema: S,
  body: unknown,
  unsupported: UnsupportedFields,
  log: Log,
): z.output<S> {
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw new XllmError('invalid_request', 'The body must be a JSON object.');
  const fields = body as Readonly<Record<string, unknown>>;
  const refused = unsupportedField(fields, unsupported);
  if (refused !== null) {
    throw new XllmError('unsupported_parameter', `${refused} is not supported yet with this value; leave it out.`, {
      param: refused,
    });
  }
  const unknown = Object.keys(fields).filter(
    (name) => !Object.hasOwn(schema.shape, name) && !Object.hasOwn(unsupported, name),
  );
  if (unknown.length > 0) {
    const names = unknown.slice(0, MAX_NAMED_FIELDS).map((name) => JSON.stringify(name.slice(0, MAX_NAME_CHARS)));
    log.debug('unknown request fields ignored', { count: unknown.length, fields: names.join(',') });
  }
  const parsed = schema.safeParse(fields);
  if (parsed.success) return parsed.data;
  throw errorOfIssue(parsed.error.issues[0]);
}

function errorOfIssue(issue: z.core.$ZodIssue | undefined): XllmError {
  if (!issue) return new XllmError('invalid_request', 'The body is not valid.');
  const param = issue.path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
  const name = param.replace(/^\./, '').slice(0, 200);
  return new XllmError('invalid_request', name === '' ? issue.message : `${name}: ${issue.message}`, { param: name });
}
