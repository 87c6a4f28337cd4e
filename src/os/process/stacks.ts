import { setTimeout as delay } from 'node:timers/promises';
import { printable } from '../../domain/printable.ts';
import { stacksMaxBytes } from '../../domain/text-bounds.ts';
import { readPart, sizeOfFile } from '../storage/read-file.ts';
import { readText } from '../storage/read-text.ts';
import type { ProcessIdentity } from './identity.ts';
import { isAlive, readStat } from './identity.ts';
import { signalProcess } from './signal.ts';

/*
 * The stacks file of a worker (PITWARDEN_STACKS): Python's faulthandler writes the stacks of all threads to it on a signal, and
 * when the process crashes. The worker can write anything else to it too.
 */

/**
 * The real-time signal on which a worker writes its stacks, Linux's SIGRTMIN + 10, which nobody else is known to use. The
 * handler is faulthandler's, in C: it needs no GIL.
 */
export const stacksSignal = 44;
/** Signals on which faulthandler writes the stacks before the process dies of them. */
const crashSignals: ReadonlySet<string> = new Set(['SIGSEGV', 'SIGFPE', 'SIGABRT', 'SIGBUS', 'SIGILL']);
/** A process that is not let run for so long does not get to write anything. */
const stacksTimeoutMs = 300;
const lookEveryMs = 10;
/** faulthandler writes at most 100 threads with 100 frames each. */
const readMaxBytes = 1024 * 1024;

/** `why`: why there are none. */
export interface Stacks {
  readonly stacks: string;
  readonly why: string;
}

/** Asks a process that runs for its stacks; ends early when it has written them, or has ended. */
export async function askForStacks(identity: ProcessIdentity, path: string | null): Promise<Stacks> {
  if (path === null) return { stacks: '', why: 'it does not write them' };
  const state = readStat(identity.pid)?.state;
  if (state === 'T' || state === 't') return { stacks: '', why: 'it is stopped (state T)' };
  // Of a signal that it does not catch it would die.
  if (!catchesStacksSignal(identity.pid)) return { stacks: '', why: 'it does not write them, or not yet' };
  const from = sizeOfFile(path);
  if (!signalProcess(identity, stacksSignal)) return { stacks: '', why: 'it has exited' };
  const endsAtMs = performance.now() + stacksTimeoutMs;
  let text = '';
  while (performance.now() < endsAtMs) {
    const isLast = !isAlive(identity);
    const next = readStacks(path, from);
    // Twice the same: all is written.
    if (isLast || (next.endsWith('\n') && next === text)) return answered(next);
    text = next;
    await delay(lookEveryMs);
  }
  return answered(text);
}

function answered(text: string): Stacks {
  return { stacks: shown(text), why: text === '' ? `nothing came within ${stacksTimeoutMs} ms` : '' };
}

/** Cut first: to make a mebibyte of control characters visible takes half a second. */
function shown(text: string): string {
  return printable(fitStacks(text, stacksMaxBytes)).slice(0, stacksMaxBytes).toWellFormed();
}

function readStacks(path: string, from: 'end' | number): string {
  return readPart(path, from, readMaxBytes)?.toString('utf8') ?? '';
}

/** By SigCgt of proc_pid_status(5): bit 0 stands for signal 1. */
export function catchesStacksSignal(pid: number): boolean {
  const caught = /^SigCgt:\s+([0-9a-f]+)$/m.exec(readText(`/proc/${pid}/status`))?.[1];
  return caught !== undefined && ((BigInt(`0x${caught}`) >> BigInt(stacksSignal - 1)) & 1n) === 1n;
}

/**
 * What faulthandler wrote when the worker crashed; empty: nothing. `signal`: that it died of; null: unknown, as only its
 * parent is told.
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
 * The stacks that fit: of the thread that got the signal, of the main thread, which Python lists last, and of as many others
 * as there is room for, newest first.
 */
export function fitStacks(text: string, maxChars: number): string {
  if (text.length <= maxChars) return text;
  const blocks = text.split(threadBegins);
  const current = blocks.findIndex((block) => block.startsWith(currentBegins));
  const order = new Set([0, current, blocks.length - 1, ...blocks.keys()]);
  order.delete(-1);
  const kept: string[] = [];
  // A third each for the first three, so that none takes the room of the next.
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
/** The standard library, packages, and the SDK. */
const notTheirs = /\/(?:lib(?:64)?\/python[\d.]+|site-packages|dist-packages|python\/src\/pitwarden)\/|^<frozen /;

/**
 * The innermost frame of the application's code in the thread that crashed, else in the main thread, else in the only other thread that
 * runs such code; empty: unknown.
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
    if (file !== '' && !notTheirs.test(file)) return `${name} (${file}, line ${number})`;
  }
  return '';
}
