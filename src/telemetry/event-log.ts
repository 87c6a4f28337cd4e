import type { NodeRecord, RecordKind } from '../domain/action.ts';
import type { Log } from './log.ts';

/** Kinds of records that are only of interest when investigating a problem. */
const debugKinds: ReadonlySet<RecordKind> = new Set([
  'worker_started',
  'worker_draining',
  'worker_stopping',
  'worker_gone',
]);

/** Kinds of records that need attention. */
const warnKinds: ReadonlySet<RecordKind> = new Set(['config_refused', 'restart_needed', 'tls_refused', 'tls_expiring']);

/** Writes a record as a log line. Its reason is the same word as everywhere else. */
export function logRecord(log: Log, record: NodeRecord): void {
  const fields: Record<string, unknown> = { event: record.kind };
  if (record.pool !== undefined) fields['pool'] = record.pool;
  if (record.workerId !== undefined) fields['worker_id'] = record.workerId;
  if (record.reason !== undefined) fields['reason'] = record.reason;
  if (record.exit?.code != null) fields['exit_code'] = record.exit.code;
  if (record.exit?.signal != null) fields['signal'] = record.exit.signal;
  const subject = record.workerId ?? (record.pool === undefined ? 'node' : `pool ${record.pool}`);
  const why = record.reason === undefined ? '' : ` (${record.reason})`;
  const line = `${subject} ${record.kind.replace(/^(worker|pool|node|slot)_/, '').replaceAll('_', ' ')}${why}: ${record.message}`;
  if (record.unplanned === true || warnKinds.has(record.kind)) log.warn(line, fields);
  else if (debugKinds.has(record.kind)) log.debug(line, fields);
  else log.info(line, fields);
}
