import { fstatSync } from 'node:fs';

/** Whether a descriptor is connected to systemd's journal. `stream` is `JOURNAL_STREAM` of systemd.exec(5). */
export function isJournal(stream: string | undefined, fd = 1): boolean {
  if (stream === undefined) return false;
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true });
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

/** Prefixes each line with its priority, since each line becomes a journal entry: sd-daemon(3). */
export function withPriority(lines: string, priority: number): string {
  return lines.replace(/^(?=.)/gm, `<${priority}>`);
}
