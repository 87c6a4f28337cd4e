// `npm run fuzz`: sets up what is missing, builds test/fuzz/ and runs it.
import { buildAndRun, main, setUp } from './setup.mjs';

await main(async () => {
  setUp();
  await buildAndRun('test/fuzz', 'fuzz/test/fuzz/main.js');
});
