// Owns a process that resolves the model named on its command line and prints what came out as JSON.
import { resolveModel } from '../../src/files/resolve/resolve-model.ts';
import { modelSettings } from '../../src/files/resolve/settings.ts';

const resolved = await resolveModel(process.argv[2], {
  settings: modelSettings(process.env),
  onProgress: ({ state, receivedBytes }) => process.stderr.write(`${state} ${receivedBytes}\n`),
});
process.stdout.write(JSON.stringify(resolved));
