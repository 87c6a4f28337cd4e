import { randomBytes } from 'node:crypto';
import { link, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Replaces a small file, or creates it: a reader sees either the old file or the new one, also after a power failure. */
export async function replaceDurably(path: string, text: string, mode = 0o600): Promise<void> {
  const beside = `${path}.new`;
  // A file of this name, left by a writer that died or put there by someone else, is removed rather than overwritten.
  await rm(beside, { force: true });
  await writeBeside(beside, text, mode, () => rename(beside, path));
  await syncFolder(dirname(path));
}

/** Creates a small file, complete from the first moment. Throws EEXIST if there is something of this name. */
export async function createDurably(path: string, text: string, mode = 0o600): Promise<void> {
  // A name of its own: several writers may be about to create the same file.
  const beside = `${path}.${randomBytes(4).toString('hex')}.new`;
  await writeBeside(beside, text, mode, async () => {
    await link(beside, path);
    await rm(beside, { force: true });
  });
  await syncFolder(dirname(path));
}

/** A new file, or a new name, is durable only once its folder is synced. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function writeBeside(beside: string, text: string, mode: number, publish: () => Promise<void>): Promise<void> {
  try {
    const file = await open(beside, 'wx', mode);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await publish();
  } catch (error) {
    await rm(beside, { force: true }).catch(() => undefined);
    throw error;
  }
}
