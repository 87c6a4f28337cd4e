import { appendFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { Reporter, TestCase, TestModule, Vitest } from 'vitest/node';

/** Lists the tests that were skipped, and why: at the end of the run, or in the file that `npm test` reads from both runners. */
export default class SkippedTests implements Reporter {
  #vitest: Vitest | undefined;

  onInit(vitest: Vitest): void {
    this.#vitest = vitest;
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    const skipped = modules
      .flatMap((module) => [...module.children.allTests('skipped')])
      .filter((test) => this.#is(test));
    const lines = skipped.map((test) => ({
      name: `${relative(process.cwd(), test.module.moduleId)} > ${test.fullName}`,
      why: whyOf(test),
    }));
    const file = process.env['SKIPPED_TESTS_FILE'];
    if (file !== undefined) appendFileSync(file, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    else for (const { name, why } of lines) process.stdout.write(`skipped here: ${name} - ${why}\n`);
  }

  /** Neither left out by `-t`, nor for want of a hook that failed. */
  #is(test: TestCase): boolean {
    if (this.#vitest?.config.testNamePattern !== undefined) return false;
    return test.options.mode === 'skip' || test.options.mode === 'todo' || noteOf(test) !== undefined;
  }
}

function whyOf(test: TestCase): string {
  const { needs } = test.meta();
  return needs === undefined ? (noteOf(test) ?? 'no reason given') : `needs ${needs}`;
}

function noteOf(test: TestCase): string | undefined {
  const result = test.result();
  return result.state === 'skipped' ? result.note : undefined;
}
