import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';

const bin = new URL('../../bin/pitwarden', import.meta.url).pathname;
/** Prints to stderr at exit whether gRPC or @peculiar/x509 was loaded: nothing else here needs HTTP/2 or reflection's metadata. */
const spy = `data:text/javascript,
  process.on('exit', () => process.stderr.write(
    String(process.moduleLoadList.includes('NativeModule http2') || 'getMetadata' in Reflect)));`;

test('--help, --version and version start fast, without loading gRPC or what makes certificates', () => {
  for (const argument of ['--help', '--version', 'version']) {
    const { status, stderr } = spawnSync(process.execPath, ['--import', spy, bin, argument], { encoding: 'utf8' });
    expect({ argument, status, stderr }).toEqual({ argument, status: 0, stderr: 'false' });
  }
});
