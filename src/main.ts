import { Command } from 'commander';
import { agent } from './cli/agent.ts';
import { call } from './cli/call.ts';
import { drain, recycle, resume, scale, start, stop } from './cli/change.ts';
import { check } from './cli/check.ts';
import { events } from './cli/events.ts';
import { CliError, exitCode } from './cli/exit.ts';
import { exits } from './cli/exits.ts';
import { explain } from './cli/explain.ts';
import { handover } from './cli/handover.ts';
import { print } from './cli/print.ts';
import { roll } from './cli/roll.ts';
import { status } from './cli/status.ts';
import { workers } from './cli/workers.ts';
import { version } from './version.ts';

const program = new Command('pitwarden')
  .description('Keeps pools of Python workers on this host alive, fresh and busy.')
  .showHelpAfterError('(pitwarden --help tells more)')
  .exitOverride();

/** A command that talks to a running agent. */
function talking(nameAndArgs: string, description: string): Command {
  return program
    .command(nameAndArgs)
    .description(description)
    .option('--socket <path>', "the agent's socket (default: PITWARDEN_SOCKET, or agent.sock in the runtime directory)")
    .option('--json', 'print JSON');
}

program
  .command('agent')
  .description('run the agent in the foreground')
  .requiredOption('--config <file>', 'its configuration')
  .option('--runtime-dir <dir>', 'folder of its sockets (config: runtime_dir)')
  .option('--state-dir <dir>', 'folder of what must survive a restart (config: state_dir)')
  .option('--http <host:port>', 'address of /metrics, /healthz and /readyz (config: http)')
  .option('--listen <host:port>', 'loopback address for gRPC over TCP (config: listen)')
  .action(agent);
program.command('check <file>').description('check a configuration and report all its problems').action(check);
talking('status', 'the node and its pools').action(status);
talking('workers', 'the live workers').option('--pool <pool>', "only this pool's").action(workers);
talking('exits', 'how workers ended, newest first').option('--pool <pool>', "only this pool's").action(exits);
talking('explain <worker-id>', 'why a worker is thought to be well or not, or how it ended').action(explain);
talking('call <pool> <command>', 'call a command of a pool')
  .option('--args <json>', 'arguments: an object by keyword, an array by position')
  .option('--file <path>', "the file's text as the first argument")
  .option('--stdin', 'the text of stdin as the first argument')
  .option('--stream', 'print each result of a generator as it comes')
  .option('--timeout <duration>', "the request's deadline, such as 5s (default: the pool's request.timeout)")
  .option('--idempotent', 'the request may run again when its worker dies')
  .option('--session <id>', 'session id that the command sees')
  .option(
    '--request-id <id>',
    'name of the request: asked again by it, a request does not run again (default: a new one)',
  )
  .action(call);
talking('scale <pool> <size>', "set a pool's size").action(scale);
talking('start <pool>', 'one more worker').action(start);
talking('stop <worker-id>', 'stop a worker at once; its pool becomes one smaller')
  .option('--replace', 'fill its slot again')
  .action(stop);
talking('drain [target]', 'a worker: finish and stop; a pool or the node: no new requests')
  .option('--node', 'all pools of the node')
  .action(drain);
talking('resume', 'take requests again after drain of a pool or the node').action(resume);
talking('recycle <target>', 'replace a worker, or all of a pool, with its replacement ready first').action(recycle);
talking('roll <pool>', 'replace all workers of a pool, and show how far it is')
  .option('--max-failures <n>', 'stop when so many replacements have failed (default: 3)')
  .option('--pause', 'no further replacements')
  .option('--resume', 'go on')
  .option('--abort', 'end it; what is replaced stays so')
  .action(roll);
talking('handover', 'replace the agent by a new one, which takes over its workers')
  .option('--timeout <duration>', 'how long the new agent may take to be there, such as 60s', '60s')
  .action(handover);
talking('events', 'what happens from now on').option('--pool <pool>', "only this pool's").action(events);
program
  .command('version')
  .description('the version of pitwarden')
  .action(() => print(version));

// A reader that has seen enough (`| head`) is no error.
process.stdout.on('error', () => process.exit(exitCode.ok));

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

function report(error: unknown): number {
  if (error instanceof CliError) {
    process.stderr.write(`${error.message}\n`);
    return error.code;
  }
  const usage = error as { readonly code?: string; readonly exitCode?: number };
  // Commander has told already; its own code for wrong usage is 1.
  if (usage.code?.startsWith('commander.') === true) return usage.exitCode === 0 ? exitCode.ok : exitCode.usage;
  process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  return exitCode.failed;
}
