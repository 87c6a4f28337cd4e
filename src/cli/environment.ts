import { homedir, hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LoadEnvironment } from '../config/load.ts';
import { defaultRuntimeDir } from '../config/load.ts';

/** The facts about the host and its user on which the defaults of the configuration depend. */
export function environment(): LoadEnvironment {
  const uid = process.getuid?.() ?? -1;
  return {
    root: uid === 0,
    uid,
    hostname: hostname(),
    tmpdir: tmpdir(),
    home: homeFolder(),
    cwd: process.cwd(),
    variables: process.env,
  };
}

/** The API's socket if nothing else is configured. */
export function defaultSocketPath(): string {
  return join(defaultRuntimeDir(environment()), 'agent.sock');
}

/** A user without an entry in /etc/passwd, as in many containers, has no home folder unless HOME is set. */
function homeFolder(): string {
  try {
    return homedir();
  } catch {
    return '/';
  }
}
