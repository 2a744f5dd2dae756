// Owns what routing is asked about a request: its length, its objectives, and digests for whoever caches blocks.
import { BlockHasher, type BlockDigest, rootDigest } from '../../common/block-digest.ts';
import type { InstanceView } from '../registry/cluster-view.ts';
import type { RoutingRequest } from '../routing/policy.ts';
import type { RoutedRequest } from './routed-request.ts';

/** Milliseconds, of requests that state none. */
interface DefaultObjectives {
  readonly targetTtftMs: number;
  readonly targetTpotMs: number;
}

export function routingRequestOf(routed: RoutedRequest, defaults: DefaultObjectives): RoutingRequest {
  const { request, numContextTokens } = routed;
  let ids: Int32Array | null = null;
  const byRoot = new Map<BlockDigest, BlockDigest[]>();
  return {
    ordinal: routed.ordinal,
    model: request.model,
    numPromptTokens: numContextTokens,
    maxTokens: request.promptIds.length + request.maxTokens - numContextTokens,
    numSeqs: request.seeds.length,
    sessionKey: request.sessionKey,
    ttftSloMs: request.ttftSloMs || defaults.targetTtftMs,
    tpotSloMs: request.tpotSloMs || defaults.targetTpotMs,
    digestsFor: ({ model, numericsId, capacity: { blockTokens } }: InstanceView) => {
      const root = rootDigest({ model, numericsId, blockTokens, adapter: '', salt: request.cacheSalt });
      let digests = byRoot.get(root);
      if (!digests) {
        ids ??= routed.contextIds();
        digests = [];
        new BlockHasher(blockTokens).extend(digests, root, ids, ids.length);
        byRoot.set(root, digests);
      }
      return digests;
    },
  };
}
