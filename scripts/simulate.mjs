// `npm run simulate`: sets up what is missing, builds test/simulate/ and runs it.
import { buildAndRun, main, setUp } from './setup.mjs';

await main(async () => {
  setUp();
  await buildAndRun('test/simulate', 'simulate/test/simulate/main.js');
});
