import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { Config } from './config.ts';
import { formatProblems, loadConfig } from './config.ts';
import type { WorkerCounters } from './dispatch/counters.ts';
import type { Dispatch } from './dispatch/dispatch.ts';
import { createDispatch } from './dispatch/dispatch.ts';
import type { Action, Changes, NodeRecord } from './domain/action.ts';
import type { State } from './domain/state.ts';
import type { Log } from './log.ts';
import { createLog } from './log.ts';
import type { Loop } from './loop.ts';
import { startLoop } from './loop.ts';
import type { Metrics } from './metrics.ts';
import { createMetrics } from './metrics.ts';
import { lockDirectory } from './os/agent-lock.ts';
import { systemClock } from './os/clock.ts';
import { prepareRuntimeDirectory } from './os/directories.ts';
import type { Hands } from './perform.ts';
import { createHands } from './perform.ts';
import { logRecord } from './record-log.ts';
import { version } from './version.ts';
import { addApi } from './wire/api.ts';
import type { ControlSource, Listener } from './wire/control.ts';
import { controlService } from './wire/control.ts';
import { executionService } from './wire/execution.ts';
import { startHttp } from './wire/http.ts';
import { createServer } from './wire/server.ts';
import type { NodeFacts } from './wire/view.ts';
import { startWorkerLink } from './wire/worker-link.ts';

export interface AgentOptions {
  readonly config: string;
  readonly runtimeDir?: string | undefined;
  readonly stateDir?: string | undefined;
  readonly http?: string | undefined;
  readonly listen?: string | undefined;
}
