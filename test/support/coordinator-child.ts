// Owns a process that holds a key or stands for election, to be killed: node coordinator-child.ts KIND ADDRESS NS MODE KEY VALUE TTL
import { EtcdCoordinator } from '../../src/coordination/etcd.ts';
import { silentEvents } from '../../src/coordination/coordinator.ts';
import { RemoteCoordinator } from '../../src/coordination/remote.ts';

const [kind = '', address = '', namespace = '', mode = '', key = '', value = '', ttl = ''] = process.argv.slice(2);
const coordinator =
  kind === 'etcd' ? new EtcdCoordinator({ hosts: [address], namespace }, silentEvents) : new RemoteCoordinator(address);
if (mode === 'hold') coordinator.hold(key, new TextEncoder().encode(value), Number(ttl));
else
  coordinator.elect(key, value, Number(ttl), (leader) => {
    if (leader?.candidate === value) console.log(`leads ${leader.term}`);
  });
setInterval(() => {}, 1_000);
