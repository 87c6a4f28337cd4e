import { shortLine } from './excerpt.ts';

/** A table with headings and aligned columns, for a terminal. */
export function table(headings: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const lines = [headings, ...rows].map((row) => row.map((cell) => shortLine(String(cell))));
  const widths = headings.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  const draw = (line: readonly string[]): string =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  return lines.map(draw).join('\n');
}

/** `WORKER_STATE_READY` as `ready`. */
export function enumLabel(enumName: string): string {
  return enumName
    .replace(/^(NODE|POOL|ROLL|WORKER|PLAN_STEP)_(STATE|HEALTH|KIND)_/, '')
    .toLowerCase()
    .replace('unspecified', '-');
}

/** `1h02m`, `3m20s` or `12.3s`; `-` if it has not happened yet. */
export function age(sinceUnixMs: number, nowUnixMs: number): string {
  if (sinceUnixMs === 0) return '-';
  const seconds = Math.max(0, nowUnixMs - sinceUnixMs) / 1000;
  // Truncated like the minutes: rounded, 59.97 seconds would become 60.0.
  if (seconds < 60) return `${(Math.floor(seconds * 10) / 10).toFixed(1)}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}m${pad(seconds % 60)}s`;
  return `${Math.floor(minutes / 60)}h${pad(minutes % 60)}m`;
}

export function mebibytes(bytes: number): string {
  return bytes === 0 ? '-' : `${(bytes / 2 ** 20).toFixed(1)}MiB`;
}

function pad(value: number): string {
  return String(Math.floor(value)).padStart(2, '0');
}
