import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const root = new URL('../', import.meta.url).pathname;

/** What a file of each folder must not import, and what it may. */
const cases: readonly [string, readonly string[], readonly string[]][] = [
  [
    'src/domain',
    ['node:fs', 'zod', '../agent/loop.ts', '../os/clock.ts', '../dispatch/queue.ts'],
    ['./state.ts', './policies/list.ts'],
  ],
  ['src/domain/policies', ['node:fs', '../../agent/loop.ts', '../../os/clock.ts'], ['../state.ts', './policy.ts']],
  [
    'src/dispatch',
    ['node:fs', '../agent/loop.ts', '../grpc/proto.ts', '../os/clock.ts'],
    ['./queue.ts', '../domain/state.ts'],
  ],
  [
    'src/grpc',
    ['../os/clock.ts', '../agent/agent.ts', '../telemetry/log.ts', '../cli/exit.ts', 'node:child_process'],
    ['@grpc/grpc-js', '../domain/state.ts', '../dispatch/queue.ts'],
  ],
  [
    'src/grpc/execution',
    ['../../os/clock.ts', '../../workers/restore.ts', 'node:child_process'],
    ['../connection.ts', '../../dispatch/queue.ts'],
  ],
  [
    'src/os',
    ['../grpc/proto.ts', '../dispatch/queue.ts', '../agent/agent.ts', '../config/load.ts', 'node:child_process'],
    ['node:fs', '../domain/state.ts', './process/identity.ts'],
  ],
  [
    'src/os/process',
    ['../../grpc/proto.ts', '../../telemetry/log.ts', '../../workers/restore.ts', 'node:child_process'],
    ['node:fs', '../clock.ts', '../output/output.ts'],
  ],
  [
    'src/telemetry',
    ['../agent/loop.ts', '../workers/restore.ts', '../cli/exit.ts', '../config/load.ts', 'node:child_process'],
    ['prom-client', '../grpc/connection-limit.ts', '../dispatch/dispatch.ts', '../os/output/log-output.ts'],
  ],
  [
    'src/workers',
    ['../agent/loop.ts', '../cli/exit.ts', 'node:child_process'],
    ['../os/process/tree.ts', '../telemetry/log.ts', '../grpc/proto.ts', '../config/env.ts'],
  ],
  [
    'src/agent',
    ['../cli/exit.ts', '../main.ts', 'node:child_process'],
    ['../workers/restore.ts', '../telemetry/log.ts'],
  ],
  ['src', ['node:child_process'], ['./os/process/child-process.ts']],
  ['src/cli', ['node:child_process'], ['../os/process/child-process.ts', '../agent/agent.ts']],
  [
    'src/config',
    ['../grpc/proto.ts', '../os/clock.ts', '../agent/agent.ts', 'node:child_process'],
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

test('one file alone makes certificates with @peculiar/x509', () => {
  const files = readdirSync(join(root, 'src'), { recursive: true }).map(String);
  const importing = files.filter(
    (file) => file.endsWith('.ts') && readFileSync(join(root, 'src', file), 'utf8').includes("'@peculiar/"),
  );
  expect(importing).toEqual(['os/certificates/x509.ts']);
});
