// Draws how many requests stay within their objectives as the rate rises, by routing policy, on the Azure traces: an SVG.
// Run: node bench/routing-plot.ts FOLDER-OF-TRACES [docs/images/routing-slo.svg] [requests]
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseTrace } from '../src/cli/bench/traces.ts';
import { type PolicyName, policyNames } from '../src/service/routing/policies.ts';
import { type Panel, linePlot } from './routing/line-plot.ts';
import { azureSetting, numInstances, objectives, shareWithin } from './routing/settings.ts';
import { simulate } from './routing/simulate.ts';

const folder = process.argv[2];
if (folder === undefined) throw new Error('name the folder that holds azure-llm-2023/');
const output = process.argv[3] ?? 'docs/images/routing-slo.svg';
const numRequests = Number(process.argv[4] ?? 2_000);

const colours: Readonly<Record<PolicyName, string>> = {
  'round-robin': '#8a8a8a',
  'least-load': '#0072b2',
  'cache-aware': '#e69f00',
  'slo-aware': '#009e73',
};
/** [name, first rate, last rate], in multiples of the trace's own */
const traces = [
  ['code', 0.75, 3],
  ['conv', 4, 6.5],
] as const;
const numRates = 19;

const panels = traces.map(([name, from, to]): Panel => {
  const path = `azure-llm-2023/${name}.first-half.csv`;
  const entries = parseTrace(readFileSync(join(folder, path), 'utf8'), path).slice(0, numRequests);
  const rates = Array.from({ length: numRates }, (_, i) => from + ((to - from) * i) / (numRates - 1));
  const lines = policyNames.map((policy) => ({
    label: policy,
    colour: colours[policy],
    points: rates.map((rate): [number, number] => {
      const { requests, options } = azureSetting(entries, rate);
      return [rate, 100 * shareWithin(simulate(requests, { ...options, policy }))];
    }),
  }));
  for (const { label, points } of lines)
    console.log(
      name,
      label.padEnd(12),
      points.map(([rate, share]) => `${rate.toFixed(2)}: ${share.toFixed(1)}`).join('  '),
    );
  return {
    title: `Azure ${name === 'conv' ? 'conversation' : 'code'}`,
    xLabel: "rate, in multiples of the trace's own",
    yLabel: 'requests within both objectives, %',
    x: [from, to],
    y: [20, 100],
    mark: { y: 90, label: '90 %' },
    lines,
  };
});
const { ttftSloMs, tpotSloMs } = objectives;
const note =
  `Virtual time: first ${numRequests.toLocaleString('en')} requests, ${numInstances} instances; ` +
  `first token within ${ttftSloMs / 1_000} s and later ones within ${tpotSloMs} ms each`;
writeFileSync(output, linePlot(panels, note));
console.log(`wrote ${output}`);
