import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { ProcessLimits } from '../../domain/config.ts';
import type { Account } from '../../domain/evidence.ts';
import { isGoneError } from '../process/proc-error.ts';
import { readIfThere, readText } from '../storage/read-text.ts';

/** A cgroup of one worker: whatever it starts is in it, and can only leave it with the rights of its owner. */
export interface WorkerCgroup {
  readonly path: string;
  /** SIGKILL to all that is in it, at once: nothing can fork its way past that. */
  kill(): void;
  /** Whether a process lives in it; also true where that cannot be told. */
  isPopulated(): boolean;
  /** The processes in it and below it. */
  processes(): readonly number[];
  /**
   * What its processes hold, without what the kernel would give up at once: memory.current less inactive_file of memory.stat.
   * 0: no memory controller is enabled here.
   */
  memoryBytes(): number;
  /** What all its processes, dead ones too, have used. */
  account(): Account;
  /** Which of these the kernel holds its processes to from now on; for the others there is no controller here. */
  limit(limits: CgroupLimits): { readonly pids: boolean; readonly memory: boolean };
  remove(): void;
}

/** 0: none. */
type CgroupLimits = Pick<ProcessLimits, 'pids' | 'memoryBytes'>;

export interface Cgroups {
  /** How worker trees are killed, and why not better; for people. */
  readonly report: string;
  /** Undefined: there are none, or this one could not be made. */
  create(workerId: string): WorkerCgroup | undefined;
  /** That of a live worker that an earlier agent made; undefined: it has none of its own. */
  find(workerId: string, pid: number): WorkerCgroup | undefined;
  /** That of a dead worker of an agent that is no more, in which something may live on. */
  findLeft(workerId: string): WorkerCgroup | undefined;
  close(): void;
}

const prefix = 'pitwarden-';
/** Of this process; one that had its pid before it is no more. */
const ownBases = new Set<string>();
const basePattern = /^pitwarden-(\d+)(?:-[0-9a-f]{8})?$/;

/**
 * Cgroups where this process may make them: below its own one in a systemd unit (which then needs Delegate=yes) or where
 * that belongs to its user, and in a v2 hierarchy mounted beside v1, which nobody else manages. No controller is needed:
 * cgroup.kill (Linux 5.14) is part of every v2 cgroup but the root. See cgroups(7) and the kernel's cgroup-v2.rst.
 */
export function openCgroups(): Cgroups {
  const found = findOwn();
  if ('why' in found) return without(found.why);
  // Another agent may have had this pid before, in a container or after a boot of the host.
  const base = join(found.path, `${prefix}${process.pid}-${randomBytes(4).toString('hex')}`);
  try {
    removeEmpty(found.path);
    mkdirSync(base);
    ownBases.add(basename(base));
  } catch (error) {
    return without(`${base}: ${(error as NodeJS.ErrnoException).code}`);
  }
  if (!existsSync(join(base, 'cgroup.kill'))) {
    remove(base);
    return without('this kernel has no cgroup.kill');
  }
  for (const controller of ['memory', 'pids']) enable(controller, found.path, base);
  return {
    report: `each worker is a cgroup below ${base}: its whole tree dies at once (cgroup.kill)`,
    create: (workerId) => create(join(base, workerId)),
    find,
    findLeft: (workerId) => findLeft(found.path, workerId),
    close: () => remove(base),
  };
}

/**
 * Where the memory controller is delegated to us and no process is in the way (a cgroup with controllers for its children
 * may hold none itself), workers' memory is the kernel's own account. Else PSS does. Limits on memory and on processes are held
 * by controllers too, else by resource limits.
 */
function enable(controller: string, own: string, base: string): void {
  for (const path of [own, base]) {
    try {
      writeFileSync(join(path, 'cgroup.subtree_control'), `+${controller}`);
    } catch {
      return;
    }
  }
}

function without(why: string): Cgroups {
  return {
    report: `worker trees are killed by process group, session, parents and environment; no cgroups: ${why}`,
    create: () => undefined,
    find,
    findLeft: () => undefined,
    close: () => undefined,
  };
}

function findOwn(): { readonly path: string } | { readonly why: string } {
  let mounts: string[];
  let own: string | undefined;
  try {
    mounts = readFileSync('/proc/self/mountinfo', 'latin1').split('\n');
    own = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'latin1'))?.[1];
  } catch (error) {
    return { why: `/proc could not be read: ${(error as NodeJS.ErrnoException).code}` };
  }
  const mountpoint = mountpointOf(mounts);
  if (mountpoint === undefined || own === undefined) return { why: 'no cgroup v2 is mounted' };
  const path = join(mountpoint, own);
  const uid = process.getuid?.() ?? 0;
  const besideV1 = mounts.some((line) => / - cgroup /.test(line));
  const delegated = process.env['INVOCATION_ID'] !== undefined || (uid !== 0 && ownerOf(path) === uid);
  if (!besideV1 && !delegated) return { why: `${path} is not delegated to this process` };
  return { path };
}

/** ID PARENT MAJOR:MINOR ROOT MOUNTPOINT … - TYPE …: proc_pid_mountinfo(5). */
function mountpointOf(mounts: readonly string[]): string | undefined {
  return mounts.find((line) => / - cgroup2 /.test(line))?.split(' ')[4];
}

function ownerOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.uid;
}

/** What agents that are no more have left; a cgroup with processes in it cannot be removed. */
function removeEmpty(path: string): void {
  for (const name of readdirSync(path)) {
    const [, pid] = basePattern.exec(name) ?? [];
    if (pid === undefined || (pid === String(process.pid) ? ownBases.has(name) : existsSync(`/proc/${pid}`))) continue;
    for (const worker of foldersIn(join(path, name))) remove(join(path, name, worker));
    remove(join(path, name));
  }
}

/** None where another agent that starts has just removed it. */
function foldersIn(path: string): readonly string[] {
  try {
    const entries = readdirSync(path, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch (error) {
    if (isGoneError(error)) return [];
    throw error;
  }
}

function create(path: string): WorkerCgroup | undefined {
  try {
    mkdirSync(path);
  } catch {
    // Out of memory or of cgroups: the worker runs without.
    return undefined;
  }
  return cgroupAt(path);
}

/** By what the kernel says of the process: a path on record could lead to anybody's. */
function find(workerId: string, pid: number): WorkerCgroup | undefined {
  const path = cgroupPathOf(pid);
  return path === undefined || basename(path) !== workerId ? undefined : cgroupAt(path);
}

/** The folder of a process's cgroup; undefined: it is gone, or there is no cgroup v2. Throws where that cannot be told. */
export function cgroupPathOf(pid: number): string | undefined {
  const mountpoint = mountpointOf((readIfThere('/proc/self/mountinfo') ?? '').split('\n'));
  const path = /^0::(.*)$/m.exec(readIfThere(`/proc/${pid}/cgroup`) ?? '')?.[1];
  return mountpoint === undefined || path === undefined ? undefined : join(mountpoint, path);
}

/** By its name, which ends in the worker's id and stands below our own cgroup. */
function findLeft(own: string, workerId: string): WorkerCgroup | undefined {
  if (!existsSync(own)) return undefined;
  for (const name of readdirSync(own)) {
    const path = join(own, name, workerId);
    if (basePattern.test(name) && existsSync(path)) return cgroupAt(path);
  }
  return undefined;
}

function cgroupAt(path: string): WorkerCgroup {
  // Asked once: it is asked for at each sample of each worker.
  const isAccounted = existsSync(join(path, 'memory.current'));
  return {
    path,
    kill: () => {
      try {
        writeFileSync(join(path, 'cgroup.kill'), '1');
      } catch {
        // Removed: nothing was in it.
      }
    },
    isPopulated: () => isPopulated(path),
    processes: () => processesIn(path),
    memoryBytes: () => (isAccounted ? cgroupMemory(path) : 0),
    account: () => cgroupAccount(path),
    limit: (limits) => limitCgroup(path, limits),
    remove: () => {
      remove(path);
      // That of an agent that is no more goes with the last of its workers.
      if (!ownBases.has(basename(dirname(path)))) remove(dirname(path));
    },
  };
}

/** Whether a process lives in it, or below it; also true where that cannot be told: only what is seen to be empty is. */
export function isPopulated(path: string): boolean {
  try {
    return entryOf(readIfThere(join(path, 'cgroup.events')) ?? '', 'populated') === 1;
  } catch {
    return true;
  }
}

function processesIn(path: string): readonly number[] {
  try {
    const own = readText(join(path, 'cgroup.procs')).trim().split('\n').filter(Boolean).map(Number);
    return [...own, ...foldersIn(path).flatMap((name) => processesIn(join(path, name)))];
  } catch {
    return [];
  }
}

export function cgroupAccount(path: string): Account {
  const cpu = readText(join(path, 'cpu.stat'));
  return {
    userMs: entryOf(cpu, 'user_usec') / 1000,
    systemMs: entryOf(cpu, 'system_usec') / 1000,
    oomKills: entryOf(readText(join(path, 'memory.events')), 'oom_kill'),
    peakBytes: Number(readText(join(path, 'memory.peak'))) || 0,
  };
}

/** Past its memory the whole worker ends: what the kernel would pick of its processes may be one that the others wait for. */
export function limitCgroup(path: string, { pids, memoryBytes }: CgroupLimits): { pids: boolean; memory: boolean } {
  const memory = memoryBytes > 0 && writeIfThere(join(path, 'memory.max'), memoryBytes);
  if (memory) writeIfThere(join(path, 'memory.oom.group'), 1);
  return { pids: pids > 0 && writeIfThere(join(path, 'pids.max'), pids), memory };
}

function writeIfThere(path: string, value: number): boolean {
  try {
    writeFileSync(path, String(value), { flag: 'r+' });
    return true;
  } catch {
    return false;
  }
}

/** Of any cgroup v2 folder; see the kernel's cgroup-v2.rst. */
export function cgroupMemory(path: string): number {
  const current = Number(readText(join(path, 'memory.current')));
  return Math.max(0, current - entryOf(readText(join(path, 'memory.stat')), 'inactive_file'));
}

/** One number of a file of `KEY NUMBER` lines; 0: it has none. */
function entryOf(file: string, key: string): number {
  return Number(new RegExp(`^${key} (\\d+)$`, 'm').exec(file)?.[1] ?? 0);
}

function remove(path: string): void {
  try {
    rmdirSync(path);
  } catch {
    // Not empty: what would not die is in it.
  }
}
