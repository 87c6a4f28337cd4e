import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { python, root } from './paths.ts';
import type { Spread } from './statistics.ts';

export interface Table {
  readonly title: string;
  readonly note?: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export interface Report {
  readonly suite: string;
  readonly tables: readonly Table[];
  /** All that was measured. */
  readonly data: unknown;
  readonly versions: Readonly<Record<string, string>>;
}

/** Prints a suite's tables, writes its JSON, and with `docs` puts the tables into docs/benchmarks.md. */
export function publish(report: Report, docs: boolean): void {
  const machine = describeMachine();
  const when = new Date().toISOString().slice(0, 10);
  const versions = Object.entries({ ...machine.versions, ...report.versions }).map((pair) => pair.join(' '));
  const head = `${when}, ${machine.text}; ${versions.join(', ')}.`;
  const text = [head, ...report.tables.map(markdown)].join('\n\n');
  process.stdout.write(`\n${text}\n`);
  const folder = join(root, '.pitwarden/bench-results');
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `${report.suite}.json`);
  writeFileSync(file, `${JSON.stringify({ when, machine, ...report }, null, 2)}\n`);
  process.stdout.write(`\nwritten: ${file}\n`);
  if (docs) putIntoDocs(report.suite, text);
}

function describeMachine() {
  const [cpu] = cpus();
  const gib = Math.round(totalmem() / 2 ** 30);
  return {
    text: `${cpus().length} cores (${cpu?.model ?? 'unknown'}), ${gib} GiB, Linux ${release()}`,
    versions: {
      Node: process.versions.node,
      'grpc-js': (JSON.parse(readFileSync(join(root, 'node_modules/@grpc/grpc-js/package.json'), 'utf8')) as Package)
        .version,
      ...pythonVersions(),
    },
  };
}

interface Package {
  readonly version: string;
}

function pythonVersions(): Record<string, string> {
  const code = 'import platform, grpc; print(platform.python_version(), grpc.__version__)';
  const [Python = '', grpcio = ''] = execFileSync(python, ['-c', code], { encoding: 'utf8' }).trim().split(' ');
  return { Python, grpcio };
}

function markdown({ title, note, columns, rows }: Table): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const rule = columns.map((_, index) => (index === 0 ? '---' : '---:'));
  const table = [line(columns), line(rule), ...rows.map(line)].join('\n');
  return [`### ${title}`, ...(note === undefined ? [] : [note]), table].join('\n\n');
}

function putIntoDocs(suite: string, text: string): void {
  const file = join(root, 'docs/benchmarks.md');
  const [begin, end] = [`<!-- ${suite}: begin -->`, `<!-- ${suite}: end -->`];
  const before = existsSync(file) ? readFileSync(file, 'utf8') : '';
  const [from, to] = [before.indexOf(begin), before.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/benchmarks.md: expected the lines ${begin} and ${end}`);
  writeFileSync(file, `${before.slice(0, from + begin.length)}\n\n${text}\n\n${before.slice(to)}`);
}

export function formatCount(value: number): string {
  if (!Number.isFinite(value)) return '–';
  if (value >= 100) return Math.round(value).toLocaleString('en-US');
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function withSpread({ median, low, high }: Spread): string {
  return Number.isFinite(median) ? `${formatCount(median)} (${formatCount(low)}–${formatCount(high)})` : '–';
}
