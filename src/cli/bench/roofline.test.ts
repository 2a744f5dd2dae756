import { describe, expect, it } from 'vitest';
import { canExecute } from '../../engine/jit/asm/exec-memory.ts';
import { supportedIsas } from '../../engine/jit/cpu-features.ts';
import { measureRoofline } from './roofline.ts';

describe('measureRoofline', () => {
  it('finds bytes to be multiplied faster than floats, and memory slower than both', () => {
    const roofline = measureRoofline(1);
    const canRun = canExecute().ok && supportedIsas().length > 0;
    expect(roofline !== null).toBe(canRun);
    if (roofline === null) return;
    const { memoryReadGBs, int8Gops, bf16Gflops, f32Gflops } = roofline;
    // No CPU with AVX2 multiplies less than 4 floats a nanosecond, or reads a byte in longer than one.
    expect(f32Gflops).toBeGreaterThan(4);
    expect(int8Gops).toBeGreaterThan(f32Gflops);
    if (bf16Gflops !== null) expect(bf16Gflops).toBeGreaterThan(0.9 * f32Gflops);
    expect(memoryReadGBs).toBeGreaterThan(1);
  });
});
