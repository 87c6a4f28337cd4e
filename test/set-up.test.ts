import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const setUpFile = fileURLToPath(new URL('../scripts/setup.mjs', import.meta.url));

/** Calls a function of setup.mjs where `program` notes its arguments, and fails at first with the given words. */
async function withFailing(program: string, words: string | undefined, call: string) {
  const folder = mkdtempSync(join(tmpdir(), 'pitwarden-set-up-'));
  for (const name of ['package.json', 'package-lock.json']) writeFileSync(join(folder, name), '{}');
  writeFileSync(join(folder, 'words'), words ?? '');
  const fails =
    words === undefined
      ? ''
      : `[ -e ${folder}/failed ] || { touch ${folder}/failed; cat ${folder}/words >&2; exit 1; }`;
  writeFileSync(
    join(folder, program),
    `#!/bin/sh\nmkdir -p ${folder}/node_modules\necho "$*" >>${folder}/calls\n${fails}\n`,
  );
  chmodSync(join(folder, program), 0o755);
  const code = `import * as its from ${JSON.stringify(setUpFile)}; its.main(() => { ${call.replaceAll('FOLDER', folder)} })`;
  const env = { ...process.env, PATH: `${folder}:${process.env['PATH']}` };
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code], {
    env,
  }).catch((error: { stdout: string; stderr: string }) => error);
  const calls = readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n');
  rmSync(folder, { recursive: true });
  return { said: stdout + stderr, calls };
}

const npm = (words?: string, locked = false) => {
  const once = `its.installNpmPackages('FOLDER', ${locked});`;
  return withFailing('npm', words, once + once);
};

test('npm installs what is pinned, runs no install script, and is not asked again', async () => {
  const { said, calls } = await npm();
  expect(calls).toEqual([expect.stringMatching(/^ci --ignore-scripts/)]);
  expect(said).toMatch(/^pitwarden set-up: installing npm packages in \S+\n$/);
});

test.each([
  [
    'npm error code ETARGET\nnpm error notarget No matching version found for ms@2.1.99.\n',
    'the registry does not serve ms@2.1.99; installing by the ranges of package.json',
    /^install --no-save --no-package-lock --ignore-scripts/,
  ],
  [
    "npm ERR! code E404\nnpm ERR! 404  The requested resource 'ms@2.1.3' could not be found\n",
    'the registry does not serve ms@2.1.3; installing by the ranges of package.json',
    /^install --no-save --no-package-lock --ignore-scripts/,
  ],
  [
    'npm error code EUSAGE\nnpm error `npm ci` can only install packages when in sync\n',
    'package.json has changed since; installing what both allow',
    /^install --no-save --ignore-scripts/,
  ],
])(
  'npm that cannot install what is pinned installs what the ranges allow, and that is said: %j',
  async (words, sentence, second) => {
    const { said, calls } = await npm(words);
    expect(said).toContain(`npm ci cannot install what package-lock.json pins: ${sentence}\n`);
    expect(calls).toEqual([expect.stringMatching(/^ci /), expect.stringMatching(second)]);

    const locked = await npm(words, true);
    expect(locked.said).toContain(`npm ci failed:\n${words.trim()}`);
    expect(locked.calls).toHaveLength(1);
  },
);

test('a package whose bytes differ from what is pinned is never installed by another way', async () => {
  const { said, calls } = await npm('npm error code EINTEGRITY\nnpm error Integrity checksum failed\n');
  expect(said).toContain('npm ci failed:\nnpm error code EINTEGRITY');
  expect(calls).toHaveLength(1);
});

const pip = (words?: string, locked = false) =>
  withFailing('python', words, `its.installPythonPackages('FOLDER/python', false, ${locked})`);

test('pip installs wheels whose hashes are pinned, and builds the SDK without an index', async () => {
  const { said, calls } = await pip();
  expect(calls).toEqual([
    expect.stringMatching(/--require-hashes --only-binary :all: -r python\/requirements.lock$/),
    expect.stringMatching(/--no-index --no-deps --no-build-isolation -e .\/python$/),
  ]);
  expect(said).toBe('');
});

test.each([
  [
    'ERROR: Could not find a version that satisfies the requirement numpy==2.4.6 (from versions: 2.4.1)\nERROR: No matching distribution found for numpy==2.4.6\n',
    'the index has no wheel of numpy==2.4.6 for this Python and machine',
  ],
  [
    'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated\n    numpy==2.4.6 from file:///wheels/numpy.whl (from -r x):\n        Expected sha256 a\n',
    'the index serves another file as numpy==2.4.6',
  ],
])('an index without the pinned packages is taken as it is, and that is said: %j', async (words, reason) => {
  const { said, calls } = await pip(words);
  expect(said).toContain(
    `pip cannot install what python/requirements.lock pins: ${reason}; installing by ranges of versions, without hashes\n`,
  );
  expect(calls).toEqual([
    expect.stringMatching(/--require-hashes/),
    expect.stringMatching(/-e .\/python -r examples\/requirements.txt$/),
  ]);

  const locked = await pip(words, true);
  expect(locked.said).toContain(`pip cannot install what python/requirements.lock pins:\n${words.trim()}`);
  expect(locked.calls).toHaveLength(1);
});
