import { printableLine } from '../domain/printable.ts';
import { withAgent } from './connect.ts';
import { print, printJson } from './print.ts';
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

function tellExit(exit: ExitView): void {
  print(`${exit.worker_id}  ended ${new Date(exit.exited_at_ms).toISOString()} (${exit.reason}): ${exit.message}`);
  if (exit.evidence !== null) tellEvidence(exit.evidence);
}

function tellEvidence(evidence: EvidenceView): void {
  print(`\nits state at ${new Date(evidence.taken_at_ms).toISOString()}: ${evidence.because}`);
  // A crash leaves no process to look at.
  if (evidence.state !== '') print(`process state ${evidence.state}; its threads (id, name, state, kernel function):`);
  for (const thread of evidence.threads) print(printableLine(`  ${thread}`));
  tellRequests(evidence.requests);
  print(evidence.stacks === '' ? `no Python stacks: ${evidence.stacks_missing}` : `\n${evidence.stacks.trimEnd()}`);
  if (evidence.last_lines.length > 0) print(`\nits last lines:\n${evidence.last_lines.join('\n')}`);
}

function tellRequests(requests: readonly RequestNoteView[]): void {
  for (const request of requests) {
    const { command, request_id, age_ms, cancelled } = request;
    const left = cancelled ? ', cancelled' : '';
    print(printableLine(`request ${request_id} (${command}) for ${age_ms} ms${left}${progressOf(request)}`));
  }
}

function progressOf({ progress, progress_message: message }: RequestNoteView): string {
  const percent = progress < 0 ? '' : `, ${Math.round(progress * 100)}%`;
  return message === '' ? percent : `${percent}, ${message}`;
}
