// Owns how options become what the processes of a cluster know each other by: addresses, token, certificates.
import { readFileSync } from 'node:fs';
import { XllmError } from '../common/errors.ts';
import type { ContractSecurity } from '../contract/grpc.ts';
import {
  type CoordinatorAddress,
  type CoordinatorOptions,
  parseCoordinatorAddress,
} from '../coordination/open-coordinator.ts';
import { isLoopback } from '../service/http/guard/hosts.ts';
import type { EngineOptions } from './config/options.ts';

export type ClusterOptions = Pick<
  EngineOptions,
  | 'coordinatorUser'
  | 'coordinatorPasswordFile'
  | 'coordinatorCa'
  | 'coordinatorCert'
  | 'coordinatorKey'
  | 'clusterTokenFile'
  | 'tlsCert'
  | 'tlsKey'
  | 'tlsCa'
>;

type Environment = Readonly<Record<string, string | undefined>>;

/** Throws XllmError usage: a file that cannot be read, one half of a pair. */
export function clusterSecurityOf(options: ClusterOptions, environment: Environment): ContractSecurity {
  const { tlsCert, tlsKey, tlsCa, clusterTokenFile } = options;
  if ((tlsCert === undefined) !== (tlsKey === undefined))
    throw new XllmError('usage', '--tls-cert and --tls-key go together');
  return {
    token: secretOf(clusterTokenFile, '--cluster-token-file', environment['XLLM_CLUSTER_TOKEN']),
    cert: pem(tlsCert, '--tls-cert'),
    key: pem(tlsKey, '--tls-key'),
    ca: pem(tlsCa, '--tls-ca'),
  };
}

/** Throws XllmError usage. */
export function coordinatorOptionsOf(
  coordinator: string,
  options: ClusterOptions,
  environment: Environment,
): CoordinatorOptions {
  const { coordinatorUser, coordinatorPasswordFile, coordinatorCa, coordinatorCert, coordinatorKey } = options;
  const address: CoordinatorAddress = parseCoordinatorAddress(coordinator);
  const password = secretOf(
    coordinatorPasswordFile,
    '--coordinator-password-file',
    environment['XLLM_COORDINATOR_PASSWORD'],
  );
  if ((coordinatorUser === undefined) !== (password === undefined))
    throw new XllmError('usage', '--coordinator-user and a password go together');
  const ca = pem(coordinatorCa, '--coordinator-ca');
  if (address.kind === 'etcd' && address.usesTls && !ca)
    throw new XllmError('usage', 'etcds:// wants --coordinator-ca: the authority that signed its certificate');
  return {
    address,
    security: clusterSecurityOf(options, environment),
    user: coordinatorUser !== undefined && password !== undefined ? { name: coordinatorUser, password } : undefined,
    tls: ca && {
      ca,
      cert: pem(coordinatorCert, '--coordinator-cert'),
      key: pem(coordinatorKey, '--coordinator-key'),
    },
  };
}

/** What others can reach must know who calls. Throws XllmError usage. */
export function checkListen(listen: string, { token }: ContractSecurity): void {
  if (listen.startsWith('unix:') || isLoopback(hostOf(listen)) || token !== undefined) return;
  throw new XllmError(
    'usage',
    `--listen ${listen} can be reached from other machines: give every process the same --cluster-token-file`,
  );
}

/** Where others reach an engine that listens there. Throws XllmError usage where nobody could know. */
export function checkAdvertise(listen: string, advertise: string | undefined): void {
  const host = hostOf(advertise ?? listen);
  if (host === '0.0.0.0' || host === '[::]')
    throw new XllmError('usage', `--listen ${listen} is every address of this machine: name one with --advertise`);
}

function hostOf(address: string): string {
  return address.replace(/:\d+$/, '');
}

function secretOf(file: string | undefined, flag: string, variable: string | undefined): string | undefined {
  if (file === undefined) return variable?.trim() || undefined;
  const secret = read(file, flag).toString('utf8').trim();
  // An empty file must not open the door to everybody.
  if (secret === '') throw new XllmError('usage', `${flag} ${file} is empty`);
  return secret;
}

function pem(file: string | undefined, flag: string): Buffer | undefined {
  return file === undefined ? undefined : read(file, flag);
}

function read(file: string, flag: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new XllmError(
      'usage',
      `${flag} ${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}
