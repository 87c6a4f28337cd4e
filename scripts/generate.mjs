// `npm run generate`: makes again what is generated from a source of its own: docs/configuration.md and
// docs/config.schema.json from src/config/schema.ts, python/src/pitwarden/_pb from proto/.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { main, root, runStep, setUp } from './setup.mjs';

await main(async () => {
  setUp({ dev: true });
  const { configurationMarkdown, jsonSchema } = await import('../dist/config/reference.js');
  writeFileSync(join(root, 'docs/configuration.md'), configurationMarkdown());
  writeFileSync(join(root, 'docs/config.schema.json'), `${JSON.stringify(jsonSchema(), null, 2)}\n`);
  runStep('the Python modules', join(root, '.venv/bin/python'), ['python/generate.py']);
});
