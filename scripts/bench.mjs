// `npm run bench`: sets up what is missing, builds bench/ and runs it.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { main, root, run, SetupError, setUp } from './setup.mjs';

await main(async () => {
  if (spawnSync('h2load', ['--version']).status !== 0) {
    throw new SetupError('expected h2load, got none. On Debian: apt install nghttp2-client');
  }
  setUp();
  run('tsc', process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'bench']);
  process.argv = [process.argv[0], join(root, '.pitwarden/bench/main.js'), ...process.argv.slice(2)];
  await import('../.pitwarden/bench/main.js');
});
