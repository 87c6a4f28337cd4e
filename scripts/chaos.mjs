// `npm run chaos`: sets up what is missing, builds test/chaos/ and runs it.
import { join } from 'node:path';
import { main, root, run, setUp } from './setup.mjs';

await main(async () => {
  setUp();
  run('tsc', process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'test/chaos']);
  process.argv = [process.argv[0], join(root, '.pitwarden/chaos/test/chaos/main.js'), ...process.argv.slice(2)];
  await import('../.pitwarden/chaos/test/chaos/main.js');
});
