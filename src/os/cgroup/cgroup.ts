import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { ProcessLimits } from '../../domain/config.ts';
import type { Account } from '../../domain/evidence.ts';
import { isGoneError } from '../process/proc-error.ts';
import { readIfThere, readText } from '../storage/read-text.ts';

/**
 * The cgroup of one worker. It contains every process that the worker starts; only the cgroup's owner can move a
 * process out.
 */
export interface WorkerCgroup {
  readonly path: string;
  /** Sends SIGKILL to every process in the cgroup at once, so that no process can escape by forking. */
  kill(): void;
  /** Whether any process is alive in the cgroup. Also true if that cannot be determined. */
  isPopulated(): boolean;
  /** The pids of the processes in the cgroup and its descendants. */
  processes(): readonly number[];
  /**
   * The memory in use, without what the kernel could reclaim at once: memory.current minus inactive_file of
   * memory.stat. 0 if no memory controller is enabled.
   */
  memoryBytes(): number;
  /** CPU time, OOM kills and peak memory of all processes of the cgroup, including dead ones. */
  account(): Account;
  /** Applies the limits. Returns which of them the kernel enforces; the others have no controller here. */
  limit(limits: CgroupLimits): { readonly pids: boolean; readonly memory: boolean };
  remove(): void;
}

/** 0: no limit. */
type CgroupLimits = Pick<ProcessLimits, 'pids' | 'memoryBytes'>;

export interface Cgroups {
  /** How worker process trees are killed, and why cgroups are not used if they are not. Shown to users. */
  readonly report: string;
  /** Undefined if there are no cgroups, or if this one could not be created. */
  create(workerId: string): WorkerCgroup | undefined;
  /** The cgroup of a live worker that an earlier agent started. Undefined if the worker has none of its own. */
  find(workerId: string, pid: number): WorkerCgroup | undefined;
  /** The cgroup that an earlier agent left behind for a dead worker; processes may still live in it. */
  findLeftover(workerId: string): WorkerCgroup | undefined;
  close(): void;
}

const prefix = 'pitwarden-';
/**
 * Base folders made by this process. A folder with our pid that is not listed here is left over from an earlier
 * process.
 */
const ownBases = new Set<string>();
const basePattern = /^pitwarden-(\d+)(?:-[0-9a-f]{8})?$/;

/**
 * Opens cgroups where this process may create them: below its own cgroup in a systemd unit (which needs Delegate=yes),
 * below its own cgroup if its user owns that, or in a v2 hierarchy mounted beside v1, which no one else manages. No
 * controller is needed: cgroup.kill (Linux 5.14) exists in every v2 cgroup but the root. See cgroups(7) and the
 * kernel's cgroup-v2.rst.
 */
export function openCgroups(): Cgroups {
  const found = findOwn();
  if ('why' in found) return noCgroups(found.why);
  // An earlier agent may have had this pid: in another container, or before a reboot.
  const base = join(found.path, `${prefix}${process.pid}-${randomBytes(4).toString('hex')}`);
  try {
    removeEmpty(found.path);
    mkdirSync(base);
    ownBases.add(basename(base));
  } catch (error) {
    return noCgroups(`${base}: ${(error as NodeJS.ErrnoException).code}`);
  }
  if (!existsSync(join(base, 'cgroup.kill'))) {
    remove(base);
    return noCgroups('this kernel has no cgroup.kill');
  }
  for (const controller of ['memory', 'pids']) enable(controller, found.path, base);
  return {
    report: `each worker runs in its own cgroup below ${base}, so its whole tree can be killed at once (cgroup.kill)`,
    create: (workerId) => create(join(base, workerId)),
    find,
    findLeftover: (workerId) => findLeftover(found.path, workerId),
    close: () => remove(base),
  };
}

/**
 * Enables a controller for the workers' cgroups. This needs the controller to be delegated to us and no process
 * directly in `own`: a cgroup with controllers for its children may hold no process itself. With the memory controller,
 * a worker's memory is the kernel's own account, otherwise PSS. Limits on memory and process counts are enforced by the
 * controllers, otherwise by resource limits.
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

function noCgroups(why: string): Cgroups {
  return {
    report: `worker trees are killed by process group, session, parents and environment; no cgroups: ${why}`,
    create: () => undefined,
    find,
    findLeftover: () => undefined,
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

/** The format is `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT … - TYPE …`: proc_pid_mountinfo(5). */
function mountpointOf(mounts: readonly string[]): string | undefined {
  return mounts.find((line) => / - cgroup2 /.test(line))?.split(' ')[4];
}

function ownerOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.uid;
}

/** Removes the empty cgroups of agents that have exited. The kernel refuses to remove a cgroup with processes. */
function removeEmpty(path: string): void {
  for (const name of readdirSync(path)) {
    const [, pid] = basePattern.exec(name) ?? [];
    if (pid === undefined || (pid === String(process.pid) ? ownBases.has(name) : existsSync(`/proc/${pid}`))) continue;
    for (const worker of foldersIn(join(path, name))) remove(join(path, name, worker));
    remove(join(path, name));
  }
}

/** Empty if another agent that is starting has just removed the folder. */
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
    // Out of memory or of cgroups: the worker runs without a cgroup.
    return undefined;
  }
  return cgroupAt(path);
}

/** Asks the kernel for the process's cgroup: a recorded path might lead to another user's cgroup. */
function find(workerId: string, pid: number): WorkerCgroup | undefined {
  const path = cgroupPathOf(pid);
  return path === undefined || basename(path) !== workerId ? undefined : cgroupAt(path);
}

/**
 * The folder of a process's cgroup. Undefined if the process is gone or there is no cgroup v2. Throws if that cannot be
 * determined.
 */
export function cgroupPathOf(pid: number): string | undefined {
  const mountpoint = mountpointOf((readIfThere('/proc/self/mountinfo') ?? '').split('\n'));
  const path = /^0::(.*)$/m.exec(readIfThere(`/proc/${pid}/cgroup`) ?? '')?.[1];
  return mountpoint === undefined || path === undefined ? undefined : join(mountpoint, path);
}

/** Finds the cgroup by its path: `OWN/pitwarden-PID-RANDOM/WORKER_ID`. */
function findLeftover(own: string, workerId: string): WorkerCgroup | undefined {
  if (!existsSync(own)) return undefined;
  for (const name of readdirSync(own)) {
    const path = join(own, name, workerId);
    if (basePattern.test(name) && existsSync(path)) return cgroupAt(path);
  }
  return undefined;
}

function cgroupAt(path: string): WorkerCgroup {
  // Checked once: memory is read at each sample of each worker.
  const isAccounted = existsSync(join(path, 'memory.current'));
  return {
    path,
    kill: () => {
      try {
        writeFileSync(join(path, 'cgroup.kill'), '1');
      } catch {
        // The cgroup was removed, so nothing was in it.
      }
    },
    isPopulated: () => isPopulated(path),
    processes: () => processesIn(path),
    memoryBytes: () => (isAccounted ? cgroupMemory(path) : 0),
    account: () => cgroupAccount(path),
    limit: (limits) => limitCgroup(path, limits),
    remove: () => {
      remove(path);
      // The base folder of an earlier agent is removed together with its last worker's cgroup.
      if (!ownBases.has(basename(dirname(path)))) remove(dirname(path));
    },
  };
}

/**
 * Whether any process is alive in the cgroup or below it. An unreadable cgroup counts as populated: only proof counts
 * as empty.
 */
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

/**
 * Past its memory limit the whole worker is killed: if the kernel killed only one process, the others could wait for it
 * forever.
 */
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

/** Works for any cgroup v2 folder; see the kernel's cgroup-v2.rst. */
export function cgroupMemory(path: string): number {
  const current = Number(readText(join(path, 'memory.current')));
  return Math.max(0, current - entryOf(readText(join(path, 'memory.stat')), 'inactive_file'));
}

/** Reads one number from a file of `KEY NUMBER` lines; 0 if the key is missing. */
function entryOf(file: string, key: string): number {
  return Number(new RegExp(`^${key} (\\d+)$`, 'm').exec(file)?.[1] ?? 0);
}

function remove(path: string): void {
  try {
    rmdirSync(path);
  } catch {
    // Not empty: it still holds a process that cannot be killed.
  }
}
