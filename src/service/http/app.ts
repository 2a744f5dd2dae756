// Owns the fastify instance: what every request passes before its route and after it.
import type { Socket } from 'node:net';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { XllmError } from '../../common/errors.ts';
import { parseTraceparent } from '../../common/trace.ts';
import type { HttpContext } from './context.ts';
import { errorBody, errorHeaders, toXllmError } from './error-reply.ts';
import { RequestRecord } from './generation/record.ts';
import { stackOf } from './generation/respond.ts';
import { ApiKeys } from './guard/api-keys.ts';
import { corsHeaders, preflightHeaders } from './guard/cors.ts';
import { isLoopback, isOwnHost } from './guard/hosts.ts';
import { requestIdOf } from './guard/request-id.ts';
import { parseJson } from './request/json.ts';
import type { Route } from './routes.ts';

/** For a whole request to arrive: Node's own default, which fastify turns off. */
const RECEIVE_TIMEOUT_MS = 300_000;

export function createApp(context: HttpContext, routes: readonly Route[]): FastifyInstance {
  const { config, log } = context;
  const app = fastify({
    logger: false,
    bodyLimit: config.maxBodyBytes,
    requestTimeout: RECEIVE_TIMEOUT_MS,
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 1024 },
    return503OnClosing: false,
    genReqId: (raw) => requestIdOf(raw.headers['x-request-id']),
    clientErrorHandler: (error, socket) => refuseMalformed(error, socket),
    frameworkErrors: (error, request, reply) => {
      request.record = new RequestRecord(requestIdOf(request.id), context.clock, context.metrics);
      sendError(context, request, reply.header('x-request-id', request.id), error);
    },
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, async (request: FastifyRequest, body: Buffer) => {
    const encoding = request.headers['content-encoding'];
    if (encoding !== undefined && encoding !== 'identity')
      throw new XllmError('invalid_request', 'Compressed bodies are not taken; send plain JSON.');
    return parseJson(body);
  });
  const byPath = new Map(routes.map((route) => [`${route.method} ${route.path}`, route]));
  const routeOf = (request: FastifyRequest): Route | undefined => {
    const method = request.method === 'HEAD' ? 'GET' : request.method;
    return byPath.get(`${method} ${request.routeOptions.url ?? ''}`);
  };
  app.decorateRequest('record');
  app.addHook('onRequest', async (request, reply) => begin(context, request, reply, routeOf(request)));
  app.addHook('onRequest', guard(context, routes, routeOf));
  app.setErrorHandler((error, request, reply) => sendError(context, request, reply, error));
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.replace(/\?.*$/s, '');
    const methods = methodsOf(routes, path);
    if (methods.length > 0) reply.header('allow', methods.join(', '));
    const hint = methods.length > 0 ? `It takes ${methods.join(' or ')}.` : 'See /openapi.json.';
    throw new XllmError('not_found', `No route ${request.method} ${path.slice(0, 200)}. ${hint}`);
  });
  for (const route of routes) {
    app.route({
      method: route.method,
      url: route.path,
      handler: (request, reply) => {
        const work = run(context, route, request, reply);
        request.record.work = work;
        return work;
      },
    });
  }
  log.debug('routes ready', { count: routes.length });
  return app;
}

async function run(context: HttpContext, route: Route, request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  try {
    if (route.kind === 'generation') reply.raw.once('close', context.running.enter());
    return await route.handle(request, reply);
  } catch (error) {
    request.record.errorCode = toXllmError(error, request.record.id).code;
    throw error;
  }
}

/** Gives the request its id, its record, and the line that is logged when it ends. */
function begin(context: HttpContext, request: FastifyRequest, reply: FastifyReply, route: Route | undefined): void {
  const { clock, metrics, log, config, running, tracer } = context;
  const record = new RequestRecord(requestIdOf(request.id), clock, metrics);
  request.record = record;
  if (tracer && route?.kind === 'generation') {
    const attributes = {
      'http.request.method': request.method,
      'http.route': route.path,
      'xllm.request_id': record.id,
    };
    record.span = tracer.start('request', parseTraceparent(request.headers.traceparent), attributes, record.arrivalMs);
  }
  reply.header('x-request-id', record.id);
  reply.headers(corsHeaders(config.corsOrigins, request.headers.origin));
  if (running.isDraining) reply.header('connection', 'close');
  const ended = () => {
    const path = route?.path ?? 'none';
    const status = reply.raw.statusCode;
    metrics.httpRequest(request.method, path, status);
    endSpan(record, status);
    const line = { id: record.id, method: request.method, path, status, ...record.logFields() };
    if (route?.kind === 'probe' || route?.kind === 'page') log.debug('request', line);
    else log.info('request', line);
  };
  // A client that vanishes closes the connection first; what that did to its request is known only afterwards.
  reply.raw.once('close', () => void record.work.then(ended, ended));
}

function endSpan({ span, errorCode, model, usage }: RequestRecord, status: number): void {
  span?.end(
    {
      'http.response.status_code': status,
      ...(usage
        ? {
            'gen_ai.request.model': model,
            'gen_ai.usage.input_tokens': usage.promptTokens,
            'gen_ai.usage.output_tokens': usage.completionTokens,
            'xllm.cached_tokens': usage.cachedTokens,
          }
        : {}),
    },
    errorCode === null ? {} : { error: errorCode },
  );
}

/** Who may ask what: foreign hosts, preflights, keys. */
function guard(
  { config }: HttpContext,
  routes: readonly Route[],
  routeOf: (request: FastifyRequest) => Route | undefined,
): (request: FastifyRequest, reply: FastifyReply) => Promise<unknown> {
  const keys = new ApiKeys(config.apiKeys);
  const checksHost = !keys.required && isLoopback(config.host);
  return async (request, reply) => {
    const route = routeOf(request);
    const isProbe = route?.kind === 'probe' && route.access === 'public';
    if (checksHost && !isProbe && !isOwnHost(request.headers.host, config.allowedHosts)) {
      throw new XllmError(
        'forbidden_host',
        'This server answers to local names only; use 127.0.0.1, or set an API key.',
      );
    }
    if (request.method === 'OPTIONS') {
      const methods = methodsOf(routes, request.url.replace(/\?.*$/s, ''));
      if (methods.length === 0) return undefined;
      if (reply.hasHeader('access-control-allow-origin')) {
        reply.headers(preflightHeaders(methods, request.headers['access-control-request-headers']));
      }
      return reply.header('allow', methods.join(', ')).code(204).send();
    }
    if (keys.required && route?.access !== 'public' && !keys.accepts(request.headers.authorization)) {
      reply.header('www-authenticate', 'Bearer');
      throw new XllmError('invalid_api_key', 'The API key is missing or wrong; send "Authorization: Bearer KEY".');
    }
    return undefined;
  };
}

function methodsOf(routes: readonly Route[], path: string): readonly string[] {
  const plain = path.length > 1 ? path.replace(/\/$/, '') : path;
  const matches = routes.filter((route) =>
    route.path.endsWith('*') ? plain.startsWith(route.path.slice(0, -1)) : route.path === plain,
  );
  return [...new Set(matches.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method])))];
}

function sendError({ log }: HttpContext, { record }: FastifyRequest, reply: FastifyReply, error: unknown): void {
  const failure = toXllmError(error, record.id);
  record.errorCode = failure.code;
  if (failure.code === 'internal_error') log.error('request failed', { id: record.id, stack: stackOf(error) });
  reply.code(failure.status).headers(errorHeaders(failure)).type('application/json; charset=utf-8');
  reply.send(JSON.stringify(errorBody(failure)));
}

/** A request that is not even HTTP: there is no reply object for it. */
function refuseMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const body = JSON.stringify(errorBody(new XllmError('invalid_request', 'The request is not valid HTTP.')));
  socket.end(
    `HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\n` +
      `x-request-id: ${requestIdOf(undefined)}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
