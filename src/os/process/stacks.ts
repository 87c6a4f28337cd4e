import { setTimeout as delay } from 'node:timers/promises';
import { printable } from '../../domain/printable.ts';
import { stacksMaxBytes } from '../../domain/text-bounds.ts';
import { readPart, sizeOfFile } from '../storage/read-file.ts';
import { readText } from '../storage/read-text.ts';
import type { ProcessIdentity } from './identity.ts';
import { isAlive, readStat } from './identity.ts';
import { signalProcess } from './send-signal.ts';

/*
 * The stacks file of a worker (PITWARDEN_STACKS). Python's faulthandler writes the stacks of all threads to it on a
 * signal and when the process crashes. The worker may also write anything else to it.
 */

/**
 * The real-time signal on which a worker writes its stacks: Linux's SIGRTMIN + 10, which no other software is known to
 * use. The handler is faulthandler's, written in C: it does not need the GIL.
 */
export const stacksSignal = 44;
/** Signals on which faulthandler writes the stacks before the process dies. */
const crashSignals: ReadonlySet<string> = new Set(['SIGSEGV', 'SIGFPE', 'SIGABRT', 'SIGBUS', 'SIGILL']);
/** A process that gets no CPU for this long will not write anything. */
const stacksTimeoutMs = 300;
const lookEveryMs = 10;
/** faulthandler writes at most 100 threads with 100 frames each. */
const readMaxBytes = 1024 * 1024;

/** `why`: why there are no stacks. */
export interface Stacks {
  readonly stacks: string;
  readonly why: string;
}

/** Asks a running process for its stacks. Returns early once it has written them or has ended. */
export async function askForStacks(identity: ProcessIdentity, path: string | null): Promise<Stacks> {
  if (path === null) return { stacks: '', why: 'the worker does not write stacks' };
  const state = readStat(identity.pid)?.state;
  if (state === 'T' || state === 't') return { stacks: '', why: 'the process is stopped (state T)' };
  // The default action of an uncaught signal would kill the process.
  if (!catchesStacksSignal(identity.pid)) return { stacks: '', why: 'the worker does not write stacks, or not yet' };
  const from = sizeOfFile(path);
  if (!signalProcess(identity, stacksSignal)) return { stacks: '', why: 'the process has exited' };
  const endsAtMs = performance.now() + stacksTimeoutMs;
  let text = '';
  while (performance.now() < endsAtMs) {
    const isLast = !isAlive(identity);
    const next = readStacks(path, from);
    // Two equal reads: everything has been written.
    if (isLast || (next.endsWith('\n') && next === text)) return answered(next);
    text = next;
    await delay(lookEveryMs);
  }
  return answered(text);
}

function answered(text: string): Stacks {
  return { stacks: shown(text), why: text === '' ? `the worker wrote no stacks within ${stacksTimeoutMs} ms` : '' };
}

/** Cuts first: escaping a mebibyte of control characters takes half a second. */
function shown(text: string): string {
  return printable(fitStacks(text, stacksMaxBytes)).slice(0, stacksMaxBytes).toWellFormed();
}

function readStacks(path: string, from: 'end' | number): string {
  return readPart(path, from, readMaxBytes)?.toString('utf8') ?? '';
}

/** Reads SigCgt of proc_pid_status(5), where bit 0 stands for signal 1. */
export function catchesStacksSignal(pid: number): boolean {
  const caught = /^SigCgt:\s+([0-9a-f]+)$/m.exec(readText(`/proc/${pid}/status`))?.[1];
  return caught !== undefined && ((BigInt(`0x${caught}`) >> BigInt(stacksSignal - 1)) & 1n) === 1n;
}

/**
 * What faulthandler wrote when the worker crashed; empty if nothing. `signal`: the signal that killed the worker; null
 * if unknown, since only the parent learns it.
 */
export function stacksOfCrash(path: string, signal: string | null): string {
  if (signal !== null && !crashSignals.has(signal)) return '';
  const text = readStacks(path, 'end');
  const at = Math.max(text.startsWith(crashBegins) ? 0 : -1, text.lastIndexOf(`\n${crashBegins}`));
  return at < 0 ? '' : shown(text.slice(at).trimStart());
}

const crashBegins = 'Fatal Python error: ';
const threadBegins = /^(?=(?:Current thread|Thread) 0x)/m;
const currentBegins = 'Current thread';

/**
 * Selects the stacks that fit: the thread that received the signal, the main thread (which Python lists last), and as
 * many others as there is room for, newest first.
 */
export function fitStacks(text: string, maxChars: number): string {
  if (text.length <= maxChars) return text;
  const blocks = text.split(threadBegins);
  const current = blocks.findIndex((block) => block.startsWith(currentBegins));
  const order = new Set([0, current, blocks.length - 1, ...blocks.keys()]);
  order.delete(-1);
  const kept: string[] = [];
  // Each of the first three gets a third, so that none takes the room of the next.
  let room = maxChars;
  let count = 0;
  for (const index of order) {
    const block = blocks[index] ?? '';
    const most = Math.min(room, Math.floor(maxChars / 3));
    if (most <= 0 || (block.length > most && count >= 3)) continue;
    kept[index] = block.length > most ? `${block.slice(0, most - 1).toWellFormed()}…` : block;
    room -= kept[index].length;
    count += 1;
  }
  return kept.join('').toWellFormed();
}

const frame = /^ {2}File "([^"\n]{1,500})", line (\d{1,9}) in (.{1,100})$/;
/** Paths of the standard library, installed packages and the SDK. */
const notApplicationCode =
  /\/(?:lib(?:64)?\/python[\d.]+|site-packages|dist-packages|python\/src\/pitwarden)\/|^<frozen /;

/**
 * The innermost frame of application code: in the thread that crashed, otherwise in the main thread, otherwise in the
 * only other thread that runs such code. Empty if unknown.
 */
export function placeOf(stacks: string): string {
  const blocks = stacks.split(threadBegins);
  const crashed = stacks.startsWith(crashBegins) ? blocks.find((block) => block.startsWith(currentBegins)) : undefined;
  const place = ownFrame(crashed ?? blocks.at(-1) ?? '');
  if (place !== '' || crashed !== undefined) return place;
  const others = blocks.map(ownFrame).filter((found) => found !== '');
  return others.length === 1 ? (others[0] ?? '') : '';
}

function ownFrame(block: string): string {
  for (const line of block.split('\n')) {
    const [, file = '', number, name] = frame.exec(line) ?? [];
    if (file !== '' && !notApplicationCode.test(file)) return `${name} (${file}, line ${number})`;
  }
  return '';
}
