/** What a worker may inherit: where things are and how people there write, none of the agent's secrets. */
const inherited: ReadonlySet<string> = new Set([
  'PATH',
  'HOME',
  'USER',
  'LOGNAME',
  'SHELL',
  'LANG',
  'LANGUAGE',
  'TZ',
  'TMPDIR',
  'LD_LIBRARY_PATH',
  'DYLD_LIBRARY_PATH',
  'SSL_CERT_FILE',
  'SSL_CERT_DIR',
  'CUDA_VISIBLE_DEVICES',
  'NVIDIA_VISIBLE_DEVICES',
]);

/** A worker's environment: the allowed part of the agent's own, then what its pool sets. */
export function workerEnvironment(
  extra: Readonly<Record<string, string>>,
  base: Readonly<Record<string, string | undefined>> = process.env,
): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const [name, value] of Object.entries(base)) {
    if (value !== undefined && (inherited.has(name) || name.startsWith('LC_'))) environment[name] = value;
  }
  // Lines of a worker that dies must not die in its buffer.
  return { ...environment, PYTHONUNBUFFERED: '1', ...extra };
}
