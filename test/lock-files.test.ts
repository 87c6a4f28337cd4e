import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

// Set-up runs no install script of a package. Who adds a package that has one looks here at what then does not run:
// protobufjs's only warns of version ranges; fsevents is of macOS alone.
const withInstallScript = ['protobufjs'];

const checkout = (path: string) => readFileSync(fileURLToPath(new URL(`../${path}`, import.meta.url)), 'utf8');

type NpmPackage = {
  version?: string;
  resolved?: string;
  integrity?: string;
  hasInstallScript?: boolean;
  os?: string[];
};

describe.each(['', '.ci/'])('%spackage-lock.json', (folder) => {
  const lock: { packages: Record<string, NpmPackage> } = JSON.parse(checkout(`${folder}package-lock.json`));
  const packages = Object.entries(lock.packages).filter(([path]) => path !== '');
  const paths = (those: (its: NpmPackage) => boolean) =>
    packages.filter(([, its]) => those(its)).map(([path]) => path.replace(/^.*node_modules\//, ''));

  test('pins each package by its hash, and names no registry', () => {
    expect(packages).not.toEqual([]);
    expect(paths((its) => its.integrity === undefined)).toEqual([]);
    expect(paths((its) => its.resolved !== undefined)).toEqual([]);
  });

  test('has the packages of every platform, as npm ci demands', () => {
    const optional = Object.values(lock.packages).flatMap((its) =>
      Object.keys((its as { optionalDependencies?: object }).optionalDependencies ?? {}),
    );
    expect(optional.filter((name) => !(`node_modules/${name}` in lock.packages))).toEqual([]);
  });

  test('has no package with an install script but those known to do without', () => {
    expect(paths((its) => its.hasInstallScript === true).filter((name) => !withInstallScript.includes(name))).toEqual(
      [],
    );
  });
});

const pinned = (path: string) => {
  const entries = checkout(path)
    .replace(/^#.*\n/gm, '')
    .split(/\n(?=\S)/);
  return entries.map((entry) => /^(?<name>[\w.-]+)==(?<version>\S+)(?<rest>.*)$/s.exec(entry)?.groups ?? { entry });
};

const named = (text: string) =>
  [...text.matchAll(/^\s*"?([A-Za-z][\w.-]*)(?:\[\w+\])?[<>=]=?/gm)].map(([, name = '']) => name.toLowerCase());

const listOf = (key: string) =>
  new RegExp(`^${key} = \\[([^\\]]*)\\]`, 'm').exec(checkout('python/pyproject.toml'))?.[1] ?? '';
const sdk = [
  ...named(listOf('requires').replaceAll(', ', '\n')),
  ...named(listOf('dependencies')),
  ...named(checkout('examples/requirements.txt')),
];
const tests = [...sdk, ...named(listOf('dev')), ...named(checkout('test/requirements.txt'))];

test.each([
  ['python/requirements.lock', sdk],
  ['test/requirements.lock', tests],
])('%s pins all that is required, by version and hash, and names no index', (path, required) => {
  const entries = pinned(path);
  for (const entry of entries)
    expect(entry).toMatchObject({ rest: expect.stringMatching(/--hash=sha256:[0-9a-f]{64}/) });
  expect(entries.map(({ name }) => name)).toEqual(expect.arrayContaining(required));
  expect(checkout(path)).not.toMatch(/:\/\/|--index|--find-links/);
});

test('the tests run with the very packages that users get', () => {
  const versions = (path: string) => pinned(path).map(({ name, version }) => `${name} ${version}`);
  expect(versions('test/requirements.lock')).toEqual(expect.arrayContaining(versions('python/requirements.lock')));
});
