import { printableEntry, printableLine } from '../domain/printable.ts';
import { withAgent } from './connect.ts';
import { print, printJson } from './print.ts';
import { progressWords } from './progress.ts';
import { table, word } from './table.ts';
import type { EvidenceView, ExitView, ExplanationView, RequestNoteView } from './views.ts';

/** Why a worker is thought to be well or not; of one that has ended, how, and what it was seen to do before. */
export async function explain(workerId: string, options: { readonly socket?: string; readonly json?: boolean }) {
  const explanation = await withAgent(options.socket, (agent) =>
    agent.call<ExplanationView>('Control', 'Explain', { worker_id: workerId }),
  );
  if (options.json === true) return printJson(explanation);
  const { worker, exit } = explanation;
  if (worker !== null) {
    print(`${worker.worker_id}  ${word(worker.state)}  ${word(explanation.health)}: ${explanation.because}\n`);
    print(
      table(
        ['SIGNAL', 'SEEN'],
        explanation.observations.map(({ name, value }) => [name, value]),
      ),
    );
    tellRequests(explanation.requests);
  }
  if (exit !== null) tellExit(exit);
}

/** The command line shows this many of a worker's requests, the oldest ones. */
const requestsMax = 32;

function tellExit(exit: ExitView): void {
  const ended = new Date(exit.exited_at_ms).toISOString();
  print(printableEntry(`${exit.worker_id}  ended ${ended} (${exit.reason}): ${exit.message}`));
  if (exit.evidence !== null) tellEvidence(exit.evidence);
}

function tellEvidence(evidence: EvidenceView): void {
  const takenAt = new Date(evidence.taken_at_ms).toISOString();
  print(`\n${printableEntry(`its state at ${takenAt}: ${evidence.because}`)}`);
  // A crash leaves no process to look at.
  if (evidence.state !== '') print(`process state ${evidence.state}; its threads (id, name, state, kernel function):`);
  for (const thread of evidence.threads) print(printableLine(`  ${thread}`));
  tellRequests(evidence.requests);
  const { stacks, stacks_missing: missing, last_lines: lastLines } = evidence;
  print(stacks === '' ? `no Python stacks: ${missing}` : `\nits Python stacks:\n${indented(stacks.trimEnd())}`);
  if (lastLines.length > 0) print(`\nits last lines:\n${indented(lastLines.join('\n'))}`);
}

/** Indents a worker's text, so that none of its lines can pass for a line of the command line itself. */
function indented(text: string): string {
  return text.replaceAll(/^/gm, '  ');
}

function tellRequests(requests: readonly RequestNoteView[]): void {
  for (const request of requests.slice(0, requestsMax)) {
    const { command, request_id, age_ms, cancelled } = request;
    const left = cancelled ? ', cancelled' : '';
    const words = progressWords(request.progress, request.progress_message);
    const reported = words === '' ? '' : `, ${words}`;
    print(printableLine(`request ${request_id} (${command}) for ${age_ms} ms${left}${reported}`));
  }
  if (requests.length > requestsMax) print(`… and ${requests.length - requestsMax} younger requests; --json shows all`);
}
