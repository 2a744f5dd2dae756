// Owns /openapi.json: paths by hand, bodies from the very schemas that check them.
import { z } from 'zod';
import { type ErrorCode, errorCatalogue } from '../../../common/errors.ts';
import { BUILD } from '../../../contract/protocol.ts';
import { chatChunk } from '../chat/schema.ts';
import { completionReply } from '../completions/schema.ts';
import { unsupportedInChat, unsupportedInCompletions } from '../request/unsupported.ts';
import type { Route } from '../routes.ts';

/** Codes that a reply over HTTP can carry: the rest is for the command line. */
const codes = (Object.keys(errorCatalogue) as ErrorCode[]).filter((code) => errorCatalogue[code].status >= 400);

const errorReply = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.enum(codes as [ErrorCode, ...ErrorCode[]]),
    }),
  })
  .meta({ id: 'Error' });

const refused: Readonly<Record<string, readonly string[]>> = {
  '/v1/chat/completions': Object.keys(unsupportedInChat),
  '/v1/completions': Object.keys(unsupportedInCompletions),
};

/** What one event of a stream holds. */
const streamed: Readonly<Record<string, z.ZodType>> = {
  '/v1/chat/completions': chatChunk,
  '/v1/completions': completionReply,
};

export function openapiDocument(routes: readonly Route[]): object {
  const schemas: Record<string, object> = {};
  const refTo = (schema: z.ZodType, io: 'input' | 'output') => reference(schema, io, schemas);
  const error = { description: 'What went wrong.', content: json(refTo(errorReply, 'output')) };
  const paths: Record<string, Record<string, object>> = {};
  for (const route of routes) {
    if (route.kind === 'page') continue;
    const { method, path, about, access, request, reply } = route;
    const fields = refused[path];
    const note = fields
      ? `${about} Known fields that are refused with \`unsupported_parameter\` where they ask for something: ${fields.join(', ')}.`
      : about;
    const chunk = streamed[path];
    const events = chunk ? { 'text/event-stream': { schema: refTo(chunk, 'output') } } : {};
    const content = { ...(reply ? json(refTo(reply, 'output')) : {}), ...events };
    const wildcard = path.startsWith('/v1/models/') ? 'model' : 'id';
    const openPath = path.replace('*', `{${wildcard}}`);
    paths[openPath] = {
      ...paths[openPath],
      [method.toLowerCase()]: {
        summary: about,
        description: note,
        ...(path.endsWith('*')
          ? { parameters: [{ name: wildcard, in: 'path', required: true, schema: { type: 'string' } }] }
          : {}),
        ...(access === 'public' ? { security: [] } : {}),
        ...(request ? { requestBody: { required: true, content: json(refTo(request, 'input')) } } : {}),
        responses: { '200': { description: 'Done.', content }, default: error },
      },
    };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'xLLM',
      version: BUILD.replace(/^.*\//, ''),
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    security: [{ key: [] }, {}],
    paths,
    components: { schemas, securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
  };
}

const json = (schema: object) => ({ 'application/json': { schema } });

/** A reference to the schema's component, which is added with all those it refers to. */
function reference(schema: z.ZodType, io: 'input' | 'output', schemas: Record<string, object>): object {
  const { $ref, $defs } = z.toJSONSchema(schema, { io, unrepresentable: 'any' }) as {
    readonly $ref?: string;
    readonly $defs?: Readonly<Record<string, object>>;
  };
  const moved = (value: object): object =>
    JSON.parse(JSON.stringify(value).replaceAll('"#/$defs/', '"#/components/schemas/')) as object;
  for (const [name, definition] of Object.entries($defs ?? {})) schemas[name] = moved(definition);
  return moved({ $ref });
}
