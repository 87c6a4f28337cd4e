import { fstatSync } from 'node:fs';

/** Whether a descriptor goes to systemd's journal: `stream` is `JOURNAL_STREAM` of systemd.exec(5). */
export function isJournal(stream: string | undefined, fd = 1): boolean {
  if (stream === undefined) return false;
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true });
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

/** Each line is an entry of the journal, and begins with its priority: sd-daemon(3). */
export function withPriority(lines: string, priority: number): string {
  return lines.replace(/^(?=.)/gm, `<${priority}>`);
}
