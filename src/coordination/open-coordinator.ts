// Owns how a coordinator's address becomes a coordinator: `etcd://…`, or where the one service process listens.
import { invariant, XllmError } from '../common/errors.ts';
import type { ContractSecurity } from '../contract/grpc.ts';
import type { Address } from '../contract/protocol.ts';
import type { Coordinator, CoordinatorEvents } from './coordinator.ts';
import type { EtcdOptions } from './etcd-calls.ts';
import { RemoteCoordinator } from './remote.ts';

export interface EtcdAddress {
  readonly kind: 'etcd';
  readonly hosts: readonly string[];
  /** '' or a path such as `/team-a`. */
  readonly namespace: string;
  readonly usesTls: boolean;
}

export type CoordinatorAddress = EtcdAddress | { readonly kind: 'embedded'; readonly address: Address };

const ETCD = /^(etcds?):\/\/([^/]+)(\/.*)?$/;
const HOST = /^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d+$/;

/** `etcd://host:port[,host:port]/namespace` (etcds: over TLS), `host:port` or `unix:/path`. Throws XllmError usage. */
export function parseCoordinatorAddress(text: string): CoordinatorAddress {
  const [, scheme, hostList, path = ''] = ETCD.exec(text) ?? [];
  if (scheme === undefined || hostList === undefined) {
    if (text.startsWith('unix:') || HOST.test(text)) return { kind: 'embedded', address: text };
    throw wrongAddress(text);
  }
  const hosts = hostList.split(',');
  if (!hosts.every((host) => HOST.test(host))) throw wrongAddress(text);
  return { kind: 'etcd', hosts, namespace: path.replace(/\/+$/, ''), usesTls: scheme === 'etcds' };
}

function wrongAddress(text: string): XllmError {
  return new XllmError(
    'usage',
    `--coordinator ${text} is neither etcd://host:port[,host:port]/namespace nor host:port nor unix:/path`,
  );
}

export interface CoordinatorOptions {
  readonly address: CoordinatorAddress;
  /** For etcd. */
  readonly user?: EtcdOptions['user'];
  readonly tls?: EtcdOptions['tls'];
  /** For the embedded one. */
  readonly security: ContractSecurity;
}

export async function openCoordinator(options: CoordinatorOptions, events: CoordinatorEvents): Promise<Coordinator> {
  const { address, user, tls, security } = options;
  if (address.kind === 'embedded') return new RemoteCoordinator(address.address, security, events);
  invariant(!address.usesTls || tls, 'etcds:// without the authority that signed its certificate');
  // Loaded only where it is used: its client and protocol definitions are the size of everything else at start-up.
  const { EtcdCoordinator } = await import('./etcd.ts');
  const { hosts, namespace, usesTls } = address;
  return new EtcdCoordinator({ hosts, namespace, user, tls: usesTls ? tls : undefined }, events);
}
