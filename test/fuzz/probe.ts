import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

export interface ProbeSettings {
  readonly socket: string;
  readonly agentPid: number;
  /** Of the worker that answers the probe. */
  readonly workerPid: number;
}

export interface Probed {
  /** What the caller saw. */
  readonly ms: number;
  /** Without what was the machine's: above all the time in which the agent, the worker or the probe waited for a core. */
  readonly judgedMs: number;
  /** Empty: it was answered. */
  readonly error: string;
}

export interface Probe {
  /** All since the last time. */
  take(): Promise<readonly Probed[]>;
  end(): Promise<void>;
}

export function startProbe(settings: ProbeSettings): Probe {
  const thread = new Worker(new URL('./probe-thread.js', import.meta.url), { workerData: settings });
  const ask = async (what: 'take' | 'end'): Promise<readonly Probed[]> => {
    const answer = once(thread, 'message') as Promise<[readonly Probed[]]>;
    thread.postMessage(what);
    const [probed] = await answer;
    return probed;
  };
  return {
    take: () => ask('take'),
    end: async () => {
      const gone = once(thread, 'exit');
      await ask('end');
      await gone;
    },
  };
}

export function p99(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.99))] ?? 0;
}
