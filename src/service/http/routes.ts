// Owns the table of routes: what is served where, who may call it, and what its bodies look like.
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import { createChatCompletion } from './chat/route.ts';
import { chatReply, chatRequest } from './chat/schema.ts';
import { createCompletion } from './completions/route.ts';
import { completionReply, completionRequest } from './completions/schema.ts';
import { drainInstance, drainReply, drainRequest } from './cluster/drain.ts';
import { clusterReply, describeCluster } from './cluster/route.ts';
import type { HttpContext } from './context.ts';
import { healthReply, readiness, readyReply } from './health/route.ts';
import type { MetricsPage } from './metrics/route.ts';
import { getModel, listModels, modelCard, modelList } from './models/route.ts';
import { type PageFile, pageFiles } from './page/files.ts';
import type { RoutingControl } from './routing/control.ts';
import { changePolicy, explainRequest, policyReply, policyRequest, requestReply, showPolicy } from './routing/route.ts';
import { detokenize, tokenize } from './tokenize/route.ts';
import { detokenizeReply, detokenizeRequest, tokenizeReply, tokenizeRequest } from './tokenize/schema.ts';

export interface Route {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly about: string;
  /** `public`: no API key. Only what says nothing about the model or its users. */
  readonly access: 'public' | 'key';
  /** `generation`: counted while draining, and refused from then on. */
  readonly kind: 'generation' | 'api' | 'probe' | 'page';
  readonly request?: z.ZodType;
  readonly reply?: z.ZodType;
  /** The reply's body; null where the handler has taken the connection over. */
  readonly handle: (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>;
}

export function createRoutes(context: HttpContext, metrics: MetricsPage, openapi: () => object): readonly Route[] {
  const startedS = context.epochS();
  return [
    {
      method: 'POST',
      path: '/v1/chat/completions',
      about: 'Answer a chat.',
      access: 'key',
      kind: 'generation',
      request: chatRequest,
      reply: chatReply,
      handle: (request, reply) => createChatCompletion(context, request, reply),
    },
    {
      method: 'POST',
      path: '/v1/completions',
      about: 'Continue a text.',
      access: 'key',
      kind: 'generation',
      request: completionRequest,
      reply: completionReply,
      handle: (request, reply) => createCompletion(context, request, reply),
    },
    {
      method: 'GET',
      path: '/v1/models',
      about: 'List the served models.',
      access: 'key',
      kind: 'api',
      reply: modelList,
      handle: async () => listModels(context, startedS),
    },
    {
      method: 'GET',
      // Model names may hold slashes.
      path: '/v1/models/*',
      about: 'Describe one served model.',
      access: 'key',
      kind: 'api',
      reply: modelCard,
      handle: async (request) => getModel(context, (request.params as { '*': string })['*'], startedS),
    },
    {
      method: 'GET',
      path: '/v1/cluster',
      about: 'Replicas and instances: health, load, KV, step times.',
      access: 'key',
      kind: 'probe',
      reply: clusterReply,
      handle: async () => describeCluster(context),
    },
    {
      method: 'POST',
      path: '/tokenize',
      about: 'Turn text or a chat into token ids.',
      access: 'key',
      kind: 'api',
      request: tokenizeRequest,
      reply: tokenizeReply,
      handle: (request) => tokenize(context, request.body),
    },
    {
      method: 'POST',
      path: '/detokenize',
      about: 'Turn token ids into text.',
      access: 'key',
      kind: 'api',
      request: detokenizeRequest,
      reply: detokenizeReply,
      handle: (request) => detokenize(context, request.body),
    },
    {
      method: 'GET',
      path: '/health',
      about: 'Whether this process lives.',
      access: 'public',
      kind: 'probe',
      reply: healthReply,
      handle: async () => ({ status: 'ok' }),
    },
    {
      method: 'GET',
      path: '/ready',
      about: 'Whether a request sent now would be served; 503 if not.',
      access: 'public',
      kind: 'probe',
      reply: readyReply,
      handle: async (_, reply) => {
        const ready = await readiness(context);
        reply.code(ready.status === 'ready' ? 200 : 503);
        return ready;
      },
    },
    {
      method: 'GET',
      path: '/metrics',
      about: 'Figures for Prometheus.',
      access: 'key',
      kind: 'probe',
      handle: async (_, reply) => {
        reply.type(metrics.contentType);
        return metrics.render();
      },
    },
    {
      method: 'GET',
      path: '/openapi.json',
      about: 'This description.',
      access: 'key',
      kind: 'api',
      handle: async () => openapi(),
    },
    ...(context.routing ? routingRoutes(context, context.routing) : []),
    ...pageFiles().map(pageRoute),
  ];
}

function routingRoutes(context: HttpContext, routing: RoutingControl): readonly Route[] {
  return [
    {
      method: 'GET',
      path: '/v1/requests/*',
      about: 'What happened to a recent request and why: routing, attempts, recovery.',
      access: 'key',
      kind: 'api',
      reply: requestReply,
      handle: async (request) => explainRequest(routing, (request.params as { '*': string })['*']),
    },
    {
      method: 'POST',
      path: '/v1/cluster/drain',
      about: 'Let an instance leave: it takes nothing new, what runs there goes on elsewhere.',
      access: 'key',
      kind: 'api',
      request: drainRequest,
      reply: drainReply,
      handle: (request) => drainInstance(routing, request.body, context),
    },
    {
      method: 'GET',
      path: '/v1/cluster/policy',
      about: 'How an instance is chosen.',
      access: 'key',
      kind: 'api',
      reply: policyReply,
      handle: async () => showPolicy(routing),
    },
    {
      method: 'POST',
      path: '/v1/cluster/policy',
      about: 'Change how an instance is chosen.',
      access: 'key',
      kind: 'api',
      request: policyRequest,
      reply: policyReply,
      handle: async (request) => changePolicy(routing, request.body, context),
    },
  ];
}

function pageRoute({ path, about, type, headers, body }: PageFile): Route {
  return {
    method: 'GET',
    path,
    about,
    // The page must load so that a key can be typed into it; it holds nothing but itself.
    access: 'public',
    kind: 'page',
    handle: async (_, reply) => {
      reply.type(type).headers(headers);
      return body;
    },
  };
}
