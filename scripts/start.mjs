// `npm start`: sets up what is missing, then this very process becomes the agent with the quickstart pools, so that
// signals reach it without a relay. More flags for the agent: npm start -- --http 127.0.0.1:9000
import { join } from 'node:path';
import { main, root, setUp } from './setup.mjs';

await main(async () => {
  setUp();
  const config = join(root, 'examples/quickstart.yaml');
  process.argv = [process.argv[0], join(root, 'bin/pitwarden'), 'agent', '--config', config, ...process.argv.slice(2)];
  await import('../bin/pitwarden');
});
