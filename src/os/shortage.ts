/**
 * Errors caused by the host or its limits: a later attempt may succeed, and neither the program nor the file is at
 * fault.
 */
const shortages: Readonly<Record<string, string>> = {
  EMFILE: 'all file descriptors that this process may open are in use',
  ENFILE: 'all file descriptors of the host are in use',
  EAGAIN: 'the limit on processes and threads is reached',
  ENOMEM: 'there is no memory for another process',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the file system is read-only',
  EINTR: 'a signal interrupted it',
};

/** Whether an error is a shortage of the host rather than a fault of the operation. */
export function isShortage(error: unknown): boolean {
  return explainShortage(error) !== undefined;
}

/** A message for users, with the errno; undefined if the error is not a shortage. */
export function explainShortage(error: unknown): string | undefined {
  const { code } = (error ?? {}) as { readonly code?: unknown };
  if (typeof code !== 'string' || !Object.hasOwn(shortages, code)) return undefined;
  return `${shortages[code]} (${code})`;
}
