import type { ServerDuplexStream } from '@grpc/grpc-js';
import type { LinkRequest } from '../../dispatch/worker.ts';
import type { MemoryBudget } from '../memory-budget.ts';
import type { AttachedWorker, LinkLimits } from './service.ts';

/** What the agent says to a worker, frame by frame. */
export interface LinkWriter extends AttachedWorker {
  /** The stream has ended: what was being written holds nothing any more. */
  over(): void;
}

/** AgentFrame of link.proto; what is absent is not said. */
interface AgentFrame {
  ping?: { sequence: number };
  drain?: object;
  limits?: LinkLimits;
  recall?: object;
  stop?: { grace_ms: number };
  requests?: LinkRequest[];
  cancels?: number[];
  pauses?: number[];
  resumes?: number[];
  acks?: number[];
  replays?: number[];
}

type Call = Pick<ServerDuplexStream<unknown, object>, 'write' | 'end' | 'destroyed' | 'cancelled'>;

/** A frame's payloads stay below this, so that a ping waits for little; one larger payload goes alone. */
const frameMaxBytes = 1024 * 1024;
/** What a request has in a frame beside its payload, as long as its names are not long. */
const requestOverheadBytes = 256;
/** With so many acknowledgements a frame is written though there is nothing else to say. */
const acksMax = 256;

/**
 * A frame that is being written holds a copy of its payloads until the worker has read it, which a worker that is stopped never
 * does. It counts towards the budget, and one larger payload waits until there is room for it, or until no other such frame
 * is being written. Meanwhile frames without requests are written: pings do not wait.
 */
export function createLinkWriters(budget: MemoryBudget) {
  /** Frames with one larger payload that are being written, of all links. */
  let largeFrames = 0;

  /**
   * Gathers what there is to say into one frame a turn of the event loop, and into the next while a frame is being written,
   * which takes long where the worker reads slowly. So a ping waits for one frame at most, and no more than one frame
   * waits outside of `requests`, whose number dispatch bounds. `onUnsent` hears of requests that were cancelled in time.
   */
  return (call: Call, onUnsent: (linkIds: readonly number[]) => void): LinkWriter => {
    const memory = budget.account();
    let requests: LinkRequest[] = [];
    /** Cancelled before they were written, and not reported yet. */
    let unsent: number[] = [];
    /** May go before requests that wait. */
    let urgent: AgentFrame | null = null;
    /** Words about requests, which must not overtake them. */
    let trailing: AgentFrame | null = null;
    /** Go with whatever is said next. */
    let acks: number[] = [];
    let scheduled = false;
    let writing = false;
    /** Of the frame that is being written. */
    let writtenBytes = 0;
    let isWrittenLarge = false;
    let isOver = false;
    let stopWaiting: (() => void) | null = null;

    const hold = (batch: readonly LinkRequest[]): void => {
      writtenBytes = bytesOf(batch);
      isWrittenLarge = isLarge(batch[0]);
      if (isWrittenLarge) largeFrames += 1;
      memory.add(writtenBytes);
    };
    const giveBack = (): void => {
      if (writtenBytes === 0) return;
      if (isWrittenLarge) largeFrames -= 1;
      const bytes = writtenBytes;
      writtenBytes = 0;
      memory.give(bytes);
    };
    const hasRoom = (next: LinkRequest | undefined): boolean =>
      next === undefined || !isLarge(next) || largeFrames === 0 || memory.fits(next.payload.length);
    const waitForRoom = (): void => {
      stopWaiting ??= budget.onGiven(() => {
        if (hasRoom(requests[0])) schedule();
      });
    };

    const flush = (): void => {
      scheduled = false;
      if (writing || isOver || call.destroyed || call.cancelled) return;
      const frame: AgentFrame = urgent ?? {};
      if (!hasRoom(requests[0])) {
        waitForRoom();
        if (urgent === null && acks.length < acksMax) return;
      } else if (requests.length > 0) {
        stopWaiting?.();
        stopWaiting = null;
        const batch = takeBatch(requests);
        requests = batch === requests ? [] : requests.slice(batch.length);
        frame.requests = batch;
        hold(batch);
      }
      urgent = null;
      if (acks.length > 0) {
        frame.acks = acks;
        acks = [];
      }
      if (requests.length === 0 && trailing !== null) {
        Object.assign(frame, trailing);
        trailing = null;
      }
      writing = true;
      call.write(frame, written);
    };
    const written = (): void => {
      writing = false;
      giveBack();
      if (requests.length > 0 || urgent !== null || trailing !== null) schedule();
    };
    const schedule = (): void => {
      if (scheduled || writing) return;
      scheduled = true;
      setImmediate(flush);
    };
    const say = (word: AgentFrame): void => {
      urgent = urgent === null ? word : Object.assign(urgent, word);
      schedule();
    };
    const sayAfterRequests = (what: 'pauses' | 'resumes' | 'replays', linkId: number): void => {
      trailing ??= {};
      trailing[what] ??= [];
      trailing[what].push(linkId);
      schedule();
    };
    /** The worker knows no order of the two within a frame: the later word takes the earlier one back. */
    const takeBack = (what: 'pauses' | 'resumes', linkId: number): void => {
      const words = trailing?.[what];
      if (words?.includes(linkId)) words.splice(words.indexOf(linkId), 1);
    };
    const reportUnsent = (): void => {
      const linkIds = unsent;
      unsent = [];
      onUnsent(linkIds);
    };
    /** False: it is written, or being written. */
    const dropUnwritten = (linkId: number): boolean => {
      const index = requests.findIndex(({ id }) => id === linkId);
      if (index < 0) return false;
      requests.splice(index, 1);
      unsent.push(linkId);
      // Not from within a decision about the request.
      if (unsent.length === 1) setImmediate(reportUnsent);
      return true;
    };
    return {
      request: (request) => {
        requests.push(request);
        schedule();
      },
      cancel: (linkId) => {
        if (dropUnwritten(linkId)) return;
        urgent ??= {};
        urgent.cancels ??= [];
        urgent.cancels.push(linkId);
        schedule();
      },
      pause: (linkId) => {
        takeBack('resumes', linkId);
        sayAfterRequests('pauses', linkId);
      },
      resume: (linkId) => {
        takeBack('pauses', linkId);
        sayAfterRequests('resumes', linkId);
      },
      recall: () => {
        say({ recall: {} });
        const unwritten = requests.map((request) => request.id);
        requests = [];
        return unwritten;
      },
      ack: (linkId) => {
        acks.push(linkId);
        if (acks.length >= acksMax) schedule();
      },
      replay: (linkId) => sayAfterRequests('replays', linkId),
      unwritten: () => new Set(requests.map((request) => request.id)),
      ping: (sequence) => say({ ping: { sequence } }),
      drain: () => say({ drain: {} }),
      limit: (limits) => say({ limits }),
      stop: (graceMs) => say({ stop: { grace_ms: Math.round(graceMs) } }),
      close: () => {
        if (!call.destroyed) call.end();
      },
      over: () => {
        isOver = true;
        giveBack();
        stopWaiting?.();
        stopWaiting = null;
      },
    };
  };
}

/** As many as one frame may hold, at least one; the same array when that is all of them. */
function takeBatch(requests: LinkRequest[]): LinkRequest[] {
  let bytes = 0;
  for (let index = 0; index < requests.length; index += 1) {
    bytes += requests[index]?.payload.length ?? 0;
    if (bytes > frameMaxBytes && index > 0) return requests.slice(0, index);
  }
  return requests;
}

function bytesOf(requests: readonly LinkRequest[]): number {
  let bytes = 0;
  for (const { payload, command } of requests) bytes += payload.length + command.length + requestOverheadBytes;
  return bytes;
}

function isLarge(request: LinkRequest | undefined): boolean {
  return request !== undefined && request.payload.length > frameMaxBytes;
}
