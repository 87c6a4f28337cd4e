import type { Request, RequestError } from '../dispatch/request.ts';
import type { Log } from './log.ts';

/** Logs requests that failed in workers: one line each, at a limited rate. */
export type FailedRequests = (request: FailedRequest, error: RequestError) => void;

type FailedRequest = Pick<Request, 'requestId' | 'command' | 'pool' | 'workerId'>;

const linesPerSecond = 5;
const burstLines = 20;
const fieldMaxChars = 200;

export function createFailedRequests(log: Pick<Log, 'warn'>, nowMs: () => number): FailedRequests {
  let tokens = burstLines;
  let refilledAtMs = nowMs();
  let unlogged = 0;
  return ({ requestId, command, pool, workerId }, { code, type, message, traceback }) => {
    const atMs = nowMs();
    tokens = Math.min(burstLines, tokens + ((atMs - refilledAtMs) / 1000) * linesPerSecond);
    refilledAtMs = atMs;
    if (tokens < 1) {
      unlogged += 1;
      return;
    }
    tokens -= 1;
    const [sentence = ''] = message.split('\n', 1);
    log.warn(`request failed: ${cut(type === '' ? sentence : `${type}: ${sentence}`)}`, {
      ...{ request_id: requestId, pool, command: cut(command), worker_id: workerId, code },
      ...(type === '' ? {} : { type: cut(type) }),
      ...(traceback === '' ? {} : { frame: cut(lastFrame(traceback)) }),
      ...(unlogged === 0 ? {} : { failed_and_not_logged: unlogged }),
    });
    unlogged = 0;
  };
}

/** The last frame of a Python traceback: `File "/srv/app.py", line 3, in load`. */
function lastFrame(traceback: string): string {
  return (
    traceback
      .split('\n')
      .findLast((line) => /^\s*File "/.test(line))
      ?.trim() ?? ''
  );
}

function cut(text: string): string {
  return text.length > fieldMaxChars ? `${text.slice(0, fieldMaxChars)}…` : text;
}
