import { describe, expect, it } from 'vitest';
import { describeMachine, readCpuinfo } from './machine.ts';

describe('describeMachine', () => {
  it('names the instruction sets that decide which kernels run, on x86 and on Arm', () => {
    const features = (cpuinfo: string) => describeMachine(cpuinfo).features;
    expect(features('processor\t: 0\nflags\t\t: fpu sse2 avx2 fma f16c avx512f\n')).toEqual([
      'avx2',
      'fma',
      'f16c',
      'avx512f',
    ]);
    expect(features('processor : 0\nFeatures : fp asimd\n')).toEqual(['asimd']);
    expect(features('')).toEqual([]);
  });

  it('describes this machine', () => {
    expect(describeMachine(readCpuinfo())).toMatchObject({
      node: process.version,
      cpu: expect.stringMatching(/./) as string,
    });
  });
});
