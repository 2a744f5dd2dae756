// Owns the branded number and string types: values that must never be mistaken for one another.
declare const tag: unique symbol;
export type Brand<T, K extends string> = T & { readonly [tag]: K };

/** Physical KV page: an index into one cache group's pool. */
export type PageId = Brand<number, 'PageId'>;
/** One generated continuation, unique within an engine's life. */
export type SequenceId = Brand<number, 'SequenceId'>;
/** Client-visible request id (`x-request-id`). */
export type RequestId = Brand<string, 'RequestId'>;
