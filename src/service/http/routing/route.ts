// Owns GET and POST /v1/cluster/policy, and GET /v1/requests/ID: how instances are chosen, and why one was.
import { z } from 'zod';
import { XllmError } from '../../../common/errors.ts';
import type { HttpContext } from '../context.ts';
import { parseBody } from '../request/body.ts';
import { policyNames } from '../../routing/policies.ts';
import type { RoutingControl } from './control.ts';

export const policyRequest = z
  .object({ policy: z.enum(policyNames).describe('How requests find an instance from now on.') })
  .meta({ id: 'RoutingPolicyRequest' });

export const policyReply = z
  .object({ policy: z.enum(policyNames), policies: z.array(z.string()) })
  .meta({ id: 'RoutingPolicy' });

const event = z.object({
  at_ms: z.number().describe('Since the request arrived.'),
  event: z.string(),
  attempt: z.int(),
  instance: z.string().nullable(),
  detail: z.record(z.string(), z.unknown()).describe('Of a decision: the policy, its reason, and every candidate.'),
});

export const requestReply = z
  .object({
    id: z.string(),
    prompts: z.array(
      z.object({
        model: z.string(),
        prompt_tokens: z.int(),
        max_tokens: z.int(),
        events: z.array(event),
        events_dropped: z.int(),
      }),
    ),
  })
  .meta({ id: 'RequestLife' });

export function showPolicy({ policy }: RoutingControl): z.output<typeof policyReply> {
  return { policy, policies: policyNames };
}

export function changePolicy(
  routing: RoutingControl,
  body: unknown,
  { log }: HttpContext,
): z.output<typeof policyReply> {
  const { policy } = parseBody(policyRequest, body, {}, log);
  log.info('routing policy changed', { from: routing.policy, to: policy });
  routing.policy = policy;
  return showPolicy(routing);
}

/** Throws XllmError `not_found`. */
export function explainRequest(routing: RoutingControl, id: string): z.output<typeof requestReply> {
  const lives = routing.explain(id);
  if (lives.length === 0) {
    throw new XllmError(
      'not_found',
      `No request ${JSON.stringify(id.slice(0, 200))} among the last ones; the id is in x-request-id.`,
    );
  }
  return {
    id,
    prompts: lives.map(({ model, numPromptTokens, maxTokens, events, numDropped }) => ({
      model,
      prompt_tokens: numPromptTokens,
      max_tokens: maxTokens,
      events: events.map(({ atMs, ...rest }) => ({ at_ms: Math.round(atMs * 10) / 10, ...rest })),
      events_dropped: numDropped,
    })),
  };
}
