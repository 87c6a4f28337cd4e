/**
 * Whether an error of reading a process's files proves that the process is gone. ENOENT: no such pid. ESRCH: it ended
 * between open and read. ENODEV: its cgroup was removed. Other errors (EMFILE, ENFILE, ENOMEM, EIO) prove nothing.
 */
export function isGoneError(error: unknown): boolean {
  const code = codeOf(error);
  return code === 'ENOENT' || code === 'ESRCH' || code === 'ENODEV';
}

/** The process belongs to another user, or we may not read its files (hidepid, a process that is not dumpable). */
export function isForbiddenError(error: unknown): boolean {
  const code = codeOf(error);
  return code === 'EACCES' || code === 'EPERM';
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}
