// `npm run bench`: sets up what is missing, builds bench/ and runs it.
import { spawnSync } from 'node:child_process';
import { buildAndRun, main, SetupError, setUp } from './setup.mjs';

await main(async () => {
  if (spawnSync('h2load', ['--version']).status !== 0) {
    throw new SetupError('expected h2load, got none. On Debian: apt install nghttp2-client');
  }
  setUp();
  await buildAndRun('bench', 'bench/main.js');
});
