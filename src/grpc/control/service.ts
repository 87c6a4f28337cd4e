import type { ServerWritableStream, UntypedServiceImplementation } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { createBeats } from './beats.ts';
import { createChangeLog } from './change-log.ts';
import { createChanges, refuseWhenMoved } from './changes.ts';
import { onNode, onWorker, scalePool, startWorker } from './commands.ts';
import type { Answer } from './control-answers.ts';
import { changing, reading } from './control-answers.ts';
import { releaseNode, setDesired } from './desired.ts';
import { listEvents } from './events.ts';
import {
  explainWorker,
  listedExits,
  listedPools,
  listedWorkers,
  page,
  registry,
  viewPool,
  viewWorker,
} from './lists.ts';
import { unlessManaged } from './managed.ts';
import { sorted, takeFitting } from './paging.ts';
import { findPool, findWorker, Refusal, refusalStatus, refuseWhenStopping, text, writablePool } from './refusals.ts';
import { reloadConfig } from './reload.ts';
import { report } from './report.ts';
import { makeBeat } from './report-view.ts';
import { onRoll, rollPool, watchRoll } from './rolls.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { telemetryStreams } from './stream-telemetry.ts';
import { nodeView } from './view.ts';
import { watch } from './watch.ts';

export function controlService(source: ControlSource): UntypedServiceImplementation {
  const changes = createChanges(source);
  const change = (answer: Answer) =>
    changing((request, caller) => changes.run(request, caller, () => answer(request, caller)), refusalStatus);
  const changeHere = (answer: Answer) =>
    change((request, caller) => unlessManaged(source, request, caller, () => answer(request, caller)));
  const changeLog = createChangeLog(source);
  const beats = createBeats(source, () => makeBeat(source));
  return {
    GetNode: read(() => nodeView(source.state(), source.node())),
    ListPools: read((request) => {
      const { views, next_page_token } = page(request, listedPools(source));
      return { pools: views, revision: source.state().revision, next_page_token };
    }),
    ListWorkers: read((request) => {
      const pool = text(request, 'pool');
      if (pool !== '') findPool(source, pool);
      const { views, next_page_token } = page(request, listedWorkers(source, pool));
      return { workers: views, revision: source.state().revision, next_page_token };
    }),
    GetWorker: read((request) => viewWorker(source, findWorker(source, request))),
    ListExits: read((request) => {
      const { views, next_page_token } = page(request, listedExits(source, text(request, 'pool')));
      return { exits: views, next_page_token };
    }),
    ListEvents: read((request) => listEvents(source, request)),
    GetRegistry: read((request) => registry(source, request)),
    Explain: read((request) => explainWorker(source, request)),
    ScalePool: changeHere((request) => scalePool(source, request)),
    StartWorker: changeHere((request) => startWorker(source, request)),
    StopWorker: changeHere((request) => {
      const replace = request['replace'] === true;
      return onWorker(source, request, (workerId) => ({ type: 'stop-worker', workerId, replace }));
    }),
    DrainWorker: changeHere((request) => onWorker(source, request, (workerId) => ({ type: 'drain-worker', workerId }))),
    RecycleWorker: change((request) => onWorker(source, request, (workerId) => ({ type: 'recycle-worker', workerId }))),
    DrainPool: changeHere((request) => {
      const pool = writablePool(source, request);
      source.command({ type: 'drain-pool', pool: pool.name });
      return viewPool(source, pool.name);
    }),
    ResumePool: changeHere((request) => {
      const pool = writablePool(source, request);
      source.command({ type: 'resume-pool', pool: pool.name });
      return viewPool(source, pool.name);
    }),
    RollPool: (call: ServerWritableStream<ControlRequest, object>) => rollPool(source, changes, call),
    WatchRoll: (call: ServerWritableStream<ControlRequest, object>) => watchRoll(source, call),
    PauseRoll: change((request) => onRoll(source, request, 'pause-roll', ['running'])),
    ResumeRoll: change((request) => onRoll(source, request, 'resume-roll', ['paused'])),
    AbortRoll: change((request) => onRoll(source, request, 'abort-roll', ['running', 'paused'])),
    DrainNode: changeHere(() => onNode(source, { type: 'drain-node' })),
    ResumeNode: changeHere(() => onNode(source, { type: 'resume-node' })),
    Watch: (call: ServerWritableStream<ControlRequest, object>) => watch(source, changeLog, call),
    Report: (call: ServerWritableStream<ControlRequest, object>) => report(source, beats, call),
    StreamTelemetry: telemetryStreams(source),
    SetDesired: changing((request, caller) => setDesired(source, request, caller), refusalStatus),
    ReleaseNode: change((request, caller) => releaseNode(source, request, caller)),
    ReloadConfig: change((request) => reloadConfig(source, request)),
    Handover: change((request) => handover(source, request)),
  };
}

const read = (answer: (request: ControlRequest) => object | Promise<object>) => reading(answer, refusalStatus);

async function handover(source: ControlSource, request: ControlRequest): Promise<object> {
  const { agentId } = source.node();
  const wanted = text(request, 'agent_id');
  if (wanted !== '' && wanted !== agentId) {
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `agent_id: expected that of this agent (${agentId}), got "${wanted}"`,
      'WRONG_AGENT',
    );
  }
  // If the successor could not start, the workers would be left without an agent.
  const problems = await source.checkConfig();
  if (problems !== '') {
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `nothing was done, because the next agent would not start:\n${problems}`,
      'CONFIG_INVALID',
    );
  }
  refuseWhenStopping(source);
  refuseWhenMoved(source, request);
  const node = nodeView(source.state(), source.node());
  const listed = listedWorkers(source, '');
  const { views } = takeFitting(sorted(listed), listed.view);
  return { node, workers: views, timeout_ms: source.handOver(), command_line: source.commandLine };
}
