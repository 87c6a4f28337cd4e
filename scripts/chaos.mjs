// `npm run chaos`: sets up what is missing, builds test/chaos/ and runs it.
import { buildAndRun, main, setUp } from './setup.mjs';

await main(async () => {
  setUp();
  await buildAndRun('test/chaos', 'chaos/test/chaos/main.js');
});
