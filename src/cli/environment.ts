import { homedir, hostname, tmpdir } from 'node:os';
import type { LoadEnvironment } from '../config/load.ts';

/** What defaults of the configuration depend on. */
export function environment(): LoadEnvironment {
  const uid = process.getuid?.() ?? -1;
  return {
    root: uid === 0,
    uid,
    hostname: hostname(),
    tmpdir: tmpdir(),
    home: homedir(),
    cwd: process.cwd(),
    variables: process.env,
  };
}
