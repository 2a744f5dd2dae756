// Owns how the coordinator's keys become instance records: what is listed and what no longer is, told one by one.
import type { Coordinator, WatchEvent } from '../../coordination/coordinator.ts';
import { decodeRecord, INSTANCE_PREFIX, type InstanceRecord } from '../../coordination/instance-record.ts';

export interface RecordListener {
  /** A record, listed or renewed. */
  onListed(record: InstanceRecord): void;
  /** No longer listed. A name whose key holds no record any more counts as gone. */
  onUnlisted(name: string): void;
  /** Told once for each distinct value: a foreign, malformed or newer record changes nothing. */
  onIgnored(key: string, why: string): void;
}

/** Follows until the returned function is called. */
export function followRecords(coordinator: Coordinator, listener: RecordListener): () => void {
  const listed = new Set<string>();
  const ignored = new Map<string, string>();
  const put = (key: string, value: Uint8Array) => {
    const record = decodeRecord(value);
    const name = key.slice(INSTANCE_PREFIX.length);
    if (typeof record !== 'string' && record.name === name) {
      ignored.delete(key);
      listed.add(name);
      listener.onListed(record);
      return;
    }
    const why = typeof record === 'string' ? record : `it names itself ${record.name}`;
    const text = Buffer.from(value).toString('base64');
    if (ignored.get(key) !== text) listener.onIgnored(key, why);
    ignored.set(key, text);
    drop(name);
  };
  const drop = (name: string) => {
    if (listed.delete(name)) listener.onUnlisted(name);
  };
  return coordinator.watch(INSTANCE_PREFIX, (event: WatchEvent) => {
    if (event.kind === 'put') put(event.key, event.value);
    else if (event.kind === 'delete') {
      ignored.delete(event.key);
      drop(event.key.slice(INSTANCE_PREFIX.length));
    } else {
      const present = new Set(event.entries.map(({ key }) => key.slice(INSTANCE_PREFIX.length)));
      for (const name of listed) if (!present.has(name)) drop(name);
      for (const { key, value } of event.entries) put(key, value);
    }
  });
}
