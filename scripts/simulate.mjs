// `npm run simulate`: sets up what is missing, builds test/simulate/ and runs it.
import { join } from 'node:path';
import { main, root, run, setUp } from './setup.mjs';

await main(async () => {
  setUp();
  run('tsc', process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'test/simulate']);
  process.argv = [process.argv[0], join(root, '.pitwarden/simulate/test/simulate/main.js'), ...process.argv.slice(2)];
  await import('../.pitwarden/simulate/test/simulate/main.js');
});
