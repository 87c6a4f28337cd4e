import { printableEntry, printableLine } from '../domain/printable.ts';
import { withAgent } from './connect.ts';
import { print, printJson } from './print.ts';
import { progressWords } from './progress.ts';
import { enumLabel, table } from './table.ts';
import type { EvidenceView, ExitView, ExplanationView, RequestNoteView } from './views.ts';

/** Shows why a worker counts as well or not; for an ended worker how it ended, and what it was doing before. */
export async function explain(workerId: string, options: { readonly socket?: string; readonly json?: boolean }) {
  const explanation = await withAgent(options.socket, (agent) =>
    agent.call<ExplanationView>('Control', 'Explain', { worker_id: workerId }),
  );
  if (options.json === true) return printJson(explanation);
  const { worker, exit } = explanation;
  if (worker !== null) {
    print(
      `${worker.worker_id}  ${enumLabel(worker.state)}  ${enumLabel(explanation.health)}: ${explanation.because}\n`,
    );
    print(
      table(
        ['SIGNAL', 'SEEN'],
        explanation.observations.map(({ name, value }) => [name, value]),
      ),
    );
    printRequests(explanation.requests);
  }
  if (exit !== null) printExit(exit);
}

/** How many of a worker's requests are shown: the oldest. */
const requestsMax = 32;

function printExit(exit: ExitView): void {
  const ended = new Date(exit.exited_at_ms).toISOString();
  print(printableEntry(`${exit.worker_id}  ended ${ended} (${exit.reason}): ${exit.message}`));
  if (exit.evidence !== null) printEvidence(exit.evidence);
}

function printEvidence(evidence: EvidenceView): void {
  const takenAt = new Date(evidence.taken_at_ms).toISOString();
  print(`\n${printableEntry(`its state at ${takenAt}: ${evidence.because}`)}`);
  // After a crash there is no process to inspect.
  if (evidence.state !== '') print(`process state ${evidence.state}; its threads (id, name, state, kernel function):`);
  for (const thread of evidence.threads) print(printableLine(`  ${thread}`));
  printRequests(evidence.requests);
  const { stacks, stacks_missing: missing, last_lines: lastLines } = evidence;
  print(stacks === '' ? `no Python stacks: ${missing}` : `\nits Python stacks:\n${indented(stacks.trimEnd())}`);
  if (lastLines.length > 0) print(`\nits last lines:\n${indented(lastLines.join('\n'))}`);
}

/** Indents a worker's text, so that none of its lines looks like the command line's own output. */
function indented(text: string): string {
  return text.replaceAll(/^/gm, '  ');
}

function printRequests(requests: readonly RequestNoteView[]): void {
  for (const request of requests.slice(0, requestsMax)) {
    const { command, request_id, age_ms, cancelled } = request;
    const left = cancelled ? ', cancelled' : '';
    const words = progressWords(request.progress, request.progress_message);
    const reported = words === '' ? '' : `, ${words}`;
    print(printableLine(`request ${request_id} (${command}) for ${age_ms} ms${left}${reported}`));
  }
  if (requests.length > requestsMax) print(`… and ${requests.length - requestsMax} younger requests; --json shows all`);
}
