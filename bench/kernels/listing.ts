// Owns the listing of an emitted KV kernel: offsets, bytes, assembly.
// node bench/kernels/listing.ts attention|kv-write [avx2|avx512] [heads] [kvHeads] [headDim] [f16|f32]
import { listing } from '../../src/engine/jit/asm/text.ts';
import { emitAttentionOp } from '../../src/engine/jit/kernels/attention/attention.ts';
import { emitKvWriteOp } from '../../src/engine/jit/kernels/kv-write.ts';

const [kernel = 'attention', isa = 'avx2', heads = '9', kvHeads = '3', headDim = '64', element = 'f16'] =
  process.argv.slice(2);
const emitters = { attention: emitAttentionOp, 'kv-write': emitKvWriteOp };
if (!(kernel in emitters) || (isa !== 'avx2' && isa !== 'avx512') || (element !== 'f16' && element !== 'f32')) {
  throw new Error('usage: listing.ts attention|kv-write [avx2|avx512] [heads] [kvHeads] [headDim] [f16|f32]');
}
const code = emitters[kernel as keyof typeof emitters](
  {
    numHeads: Number(heads),
    numKvHeads: Number(kvHeads),
    headDim: Number(headDim),
    blockTokens: 16,
    element,
    hasSoftCap: false,
  },
  isa,
);
console.log(listing(code));
