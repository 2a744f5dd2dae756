// Owns the protocol version, the build name, and what both sides agree on about the transport.
import type { ChannelOptions } from '@grpc/grpc-js';

/** Raised when a message changes its meaning; new optional fields need no new version. */
export const PROTOCOL_VERSION = 2;
export const BUILD = 'xllm-ts/0.1.0';

/** A prompt of a million tokens is 4 MiB; grpc-js refuses 4 MB unless told otherwise. */
const MAX_MESSAGE_BYTES = 64 * 2 ** 20;

export const channelOptions: ChannelOptions = {
  'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
  'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
  // grpc-js would route even loopback through http_proxy.
  'grpc.enable_http_proxy': 0,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 10_000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2_000,
};

/** `unix:/path` or `host:port`, as gRPC names them. */
export type Address = string;
