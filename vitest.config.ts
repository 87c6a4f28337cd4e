import { defineConfig } from 'vitest/config';
import type { TestSpecification } from 'vitest/node';
import { BaseSequencer } from 'vitest/node';

// Real agents and real Python processes take seconds, not milliseconds, to start on a small machine.
const e2eTimeoutMs = 120_000;

// Each of their files has agents of its own; more at once than cores only measures the queue for a core.
const agentsMax = 2;

/** Starts the longest file first, which would otherwise run alone at the end. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const isLongest = ({ project }: TestSpecification) => project.name === 'systemd';
    return [...sorted.filter(isLongest), ...sorted.filter((file) => !isLongest(file))];
  }
}

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    reporters: ['default', './test/skipped-tests.ts'],
    projects: [
      {
        test: {
          name: 'unit',
          sequence: { groupOrder: 0 },
          include: ['test/**/*.test.ts'],
          exclude: ['test/e2e/**', 'test/systemd/**'],
          testTimeout: 20_000,
        },
      },
      {
        test: {
          name: 'e2e',
          sequence: { groupOrder: 1 },
          include: ['test/e2e/**/*.test.ts'],
          testTimeout: e2eTimeoutMs,
          hookTimeout: e2eTimeoutMs,
          maxWorkers: agentsMax,
        },
      },
      {
        test: {
          name: 'systemd',
          sequence: { groupOrder: 1 },
          maxWorkers: agentsMax,
          include: ['test/systemd/**/*.test.ts'],
          testTimeout: e2eTimeoutMs,
          hookTimeout: e2eTimeoutMs,
        },
      },
    ],
  },
});
