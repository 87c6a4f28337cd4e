import { boundsOf } from '../domain/app-telemetry.ts';
import type { AppFamily, AppSeries } from './app-series.ts';

const prefix = 'pitwarden_app_';

/**
 * The measurements of all pools in the text format of Prometheus. The lines of one name stand together, whichever pools have it. If
 * pools disagree about the kind of a name, its lines come without a type, so that no pool can spoil the name for another.
 */
export function renderApps(pools: Iterable<{ readonly families: ReadonlyMap<string, AppFamily> }>): string {
  const shown = new Map<string, AppFamily[]>();
  for (const { families } of pools) {
    for (const family of families.values()) {
      const name = shownName(family);
      const same = shown.get(name);
      if (same === undefined) shown.set(name, [family]);
      else same.push(family);
    }
  }
  const lines: string[] = [];
  for (const name of [...shown.keys()].sort()) renderName(lines, name, shown.get(name) ?? []);
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}

/** A counter's name ends in _total, and no name of another kind does. */
function shownName({ name, kind }: AppFamily): string {
  return kind === 'counter' ? `${prefix}${name}_total` : `${prefix}${name}`;
}

function renderName(lines: string[], name: string, families: readonly AppFamily[]): void {
  const kinds = new Set(families.map(({ kind }) => kind));
  const plain = families.filter(({ kind }) => kind !== 'histogram');
  const histograms = families
    .filter(({ kind }) => kind === 'histogram')
    .flatMap((family) => [...family.series.values()].map((series) => ({ own: family.name, series })));
  lines.push(help(name));
  if (kinds.size === 1) lines.push(`# TYPE ${name} ${[...kinds][0]}`);
  for (const { series } of plain)
    for (const { labels, value } of series.values()) lines.push(`${name}{${labels}} ${value}`);
  if (kinds.size === 1) {
    for (const { own, series } of histograms) {
      lines.push(...bucketLines(name, own, series), sumLine(name, series), countLine(name, series));
    }
    return;
  }
  // Without a type each ending makes a name of its own, whose lines must stand together.
  lines.push(help(`${name}_bucket`), ...histograms.flatMap(({ own, series }) => bucketLines(name, own, series)));
  lines.push(help(`${name}_sum`), ...histograms.map(({ series }) => sumLine(name, series)));
  lines.push(help(`${name}_count`), ...histograms.map(({ series }) => countLine(name, series)));
}

function help(name: string): string {
  return `# HELP ${name} Measured by applications with emit or span.`;
}

/** Each bucket counts all values up to its bound. */
function bucketLines(name: string, own: string, { labels, buckets }: AppSeries): string[] {
  const bounds = boundsOf(own);
  let total = 0;
  return buckets.map((count, index) => {
    total += count;
    return `${name}_bucket{${labels},le="${bounds[index] ?? '+Inf'}"} ${total}`;
  });
}

function sumLine(name: string, { labels, value }: AppSeries): string {
  return `${name}_sum{${labels}} ${value}`;
}

function countLine(name: string, { labels, buckets }: AppSeries): string {
  return `${name}_count{${labels}} ${buckets.reduce((sum, count) => sum + count, 0)}`;
}
