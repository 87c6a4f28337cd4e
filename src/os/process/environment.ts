/** What a worker may inherit from the agent: paths and locale settings, but none of the agent's secrets. */
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

/** The environment of a worker: the inheritable part of the agent's own, then what the pool sets. */
export function workerEnvironment(
  extra: Readonly<Record<string, string>>,
  base: Readonly<Record<string, string | undefined>> = process.env,
): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const [name, value] of Object.entries(base)) {
    if (value !== undefined && (inherited.has(name) || name.startsWith('LC_'))) environment[name] = value;
  }
  // Unbuffered, so that a worker that dies loses none of its output.
  return { ...environment, PYTHONUNBUFFERED: '1', ...extra };
}
