/**
 * What an error of reading a process's files says of the process. ENOENT: no such pid. ESRCH: it ended between open and
 * read. ENODEV: its cgroup was removed. No other error says that it is gone: EMFILE, ENFILE, ENOMEM and EIO say nothing.
 */
export function isGoneError(error: unknown): boolean {
  const code = codeOf(error);
  return code === 'ENOENT' || code === 'ESRCH' || code === 'ENODEV';
}

/** It is another user's, or its files are closed to us (hidepid, a process that is not dumpable). */
export function isForbiddenError(error: unknown): boolean {
  const code = codeOf(error);
  return code === 'EACCES' || code === 'EPERM';
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}
