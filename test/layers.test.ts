import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const root = new URL('../', import.meta.url).pathname;

/** What a file of each folder must not import, and what it may. */
const cases: readonly [string, readonly string[], readonly string[]][] = [
  [
    'src/domain',
    ['node:fs', 'zod', '../loop.ts', '../os/clock.ts', '../dispatch/queue.ts'],
    ['./state.ts', './policies/list.ts'],
  ],
  ['src/domain/policies', ['node:fs', '../../loop.ts', '../../os/clock.ts'], ['../state.ts', './policy.ts']],
  [
    'src/dispatch',
    ['node:fs', '../loop.ts', '../wire/proto.ts', '../os/clock.ts'],
    ['./queue.ts', '../domain/state.ts'],
  ],
  [
    'src/wire',
    ['../os/clock.ts', '../agent.ts', '../cli/exit.ts', 'node:child_process'],
    ['@grpc/grpc-js', '../domain/state.ts', '../dispatch/queue.ts'],
  ],
  [
    'src/os',
    ['../wire/proto.ts', '../dispatch/queue.ts', '../agent.ts', '../config/load.ts', 'node:child_process'],
    ['node:fs', '../domain/state.ts'],
  ],
  ['src', ['node:child_process'], ['./os/child-process.ts']],
  ['src/cli', ['node:child_process'], ['../os/child-process.ts']],
  [
    'src/config',
    ['../wire/proto.ts', '../os/clock.ts', '../agent.ts', 'node:child_process'],
    ['node:fs', 'zod', '../domain/config.ts'],
  ],
];

test('the rules of the layers bite', () => {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  copyFileSync(join(root, 'biome.json'), join(dir, 'biome.json'));
  const expected: string[] = [];
  for (const [folder, forbidden, allowed] of cases) {
    for (const [index, from] of [...forbidden, ...allowed].entries()) {
      const file = `${folder}/f${index}.ts`;
      mkdirSync(dirname(join(dir, file)), { recursive: true });
      writeFileSync(join(dir, file), `import { a } from '${from}';\n\nexport { a };\n`);
      if (index < forbidden.length) expected.push(file);
    }
  }
  const flags = [
    'lint',
    '--vcs-enabled=false',
    '--colors=off',
    '--max-diagnostics=none',
    '--only=style/noRestrictedImports',
    'src',
  ];
  const { stdout, stderr } = spawnSync(join(root, 'node_modules/.bin/biome'), flags, { cwd: dir, encoding: 'utf8' });
  rmSync(dir, { recursive: true });
  const found = [...`${stdout}${stderr}`.matchAll(/^(src\/\S+\.ts):\d+:\d+ lint\/style\/noRestrictedImports/gm)];
  expect(found.map((match) => match[1]).sort()).toEqual(expected.sort());
});
