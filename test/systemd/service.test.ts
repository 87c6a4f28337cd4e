import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { WorkerView } from '../e2e/agent.ts';
import { until } from '../e2e/agent.ts';
import type { Lab } from './lab.ts';
import { startLab, whyNoLab } from './lab.ts';

/** Whether workers outlive their agent: both the agent's half of it and the SDK's. */
const adoption = false;

const why = whyNoLab();
if (why !== '') process.stderr.write(`test/systemd is skipped: ${why}\n`);

/** The interpreter of the lab is not where it was installed, nor is the SDK. */
const pool = (more = '') => `
log: { format: json }
pools:
  faults:
    app: faults:app
    python: /opt/pitwarden/.venv/bin/python
    cwd: /opt/pitwarden/examples
    env: { LD_LIBRARY_PATH: /opt/python/lib, PYTHONPATH: /opt/pitwarden/python/src }
    size: 2
    drain: { timeout: 20s }
    ${more}
`;

const service = 'pitwarden.service';
let lab: Lab;

describe.skipIf(why !== '')('the unit under a real systemd', () => {
  beforeAll(async () => {
    lab = await startLab(pool());
  });

  afterAll(() => lab?.end());

  afterEach(async () => {
    await lab.run('systemctl', 'stop', 'pitwarden.socket', service);
    await lab.run('systemctl', 'reset-failed', service);
  });

  test('start', async () => {
    console.log(await lab.run('systemctl', 'start', service));
    console.log(await lab.ask('systemctl', 'status', service));
    console.log(await lab.journal());
    console.log(await lab.cli('status'));
    console.log(await lab.cli('workers'));
  });
});
