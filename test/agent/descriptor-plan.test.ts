import { expect, test } from 'vitest';
import { descriptorsPerWorker, planDescriptors } from '../../src/agent/descriptor-plan.ts';

test('connections of all kinds and the workers fit into the descriptors, and control.sock always has some', () => {
  for (const workers of [0, 1, 7, 70, 500]) {
    for (let limit = 64; limit <= 12_000; limit += 13) {
      const plan = planDescriptors(limit, workers);
      const { apiConnections, controlConnections, httpConnections, linkConnections, needed } = plan;
      const where = `${limit} descriptors, ${workers} workers`;
      expect(controlConnections, where).toBeGreaterThanOrEqual(4);
      expect(needed === 0 || needed > limit, where).toBe(true);
      if (needed > 0) continue;
      // A link is one of the descriptors of its worker.
      const files = (descriptorsPerWorker - 1) * workers;
      const used = apiConnections + controlConnections + httpConnections + linkConnections + files;
      expect(used, where).toBeLessThanOrEqual(limit);
    }
  }
});

test('an agent without a limit of descriptors has the most connections that it serves', () => {
  const { apiConnections, controlConnections, needed } = planDescriptors(Number.POSITIVE_INFINITY, 10);
  expect([apiConnections, controlConnections, needed]).toEqual([4_096, 64, 0]);
});
