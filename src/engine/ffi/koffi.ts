// Owns the one import of koffi and the address type that native calls take and give.
import koffi from 'koffi';

/** A native address. Addresses of user space fit a double exactly (below 2^47). */
export type Address = number;

export { koffi };

/** A live view of native memory: valid only while the mapping is. */
export function viewMemory(address: Address, numBytes: number): ArrayBuffer {
  return koffi.view(BigInt(address), numBytes) as ArrayBuffer;
}
