// Owns the receiving process of the bandwidth test: frames into pages, or the bytes of a plain socket into nothing.
import { connect } from 'node:net';
import { TcpReader } from '../tcp-reader.ts';

const [kind = '', port = '', ticket = '', numBlocks = '', pageBytes = ''] = process.argv.slice(2);
const done = () => process.stdout.write('done\n');

if (kind === 'plain') {
  let numLeft = Number(numBlocks) * Number(pageBytes);
  const socket = connect(Number(port), '127.0.0.1');
  socket.write(Buffer.from(ticket, 'hex'));
  socket.on('data', (chunk: Buffer) => {
    numLeft -= chunk.length;
    if (numLeft <= 0) done();
  });
} else {
  const pages = new Uint8Array(64 * Number(pageBytes));
  let numLeft = Number(numBlocks);
  const intake = {
    place: ({ block }: { readonly block: number }, numBytes: number) => {
      const at = (block % 64) * numBytes;
      return pages.subarray(at, at + numBytes);
    },
    placed: () => {
      if (--numLeft === 0) done();
    },
    failed: (error: Error) => {
      throw error;
    },
  };
  new TcpReader({ address: `127.0.0.1:${port}`, ticket: Buffer.from(ticket, 'hex'), security: {} }, intake, () => {});
}
