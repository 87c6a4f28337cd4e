import { Command, CommanderError } from 'commander';
import { CliError, exitCode } from './cli/exit.ts';
import { ownName } from './cli/own-name.ts';
import { printError, printErrorJson } from './cli/print.ts';
import { suggestion } from './cli/suggestion.ts';
import { version } from './version.ts';

const wantsJson = process.argv.includes('--json');

const program = new Command('pitwarden')
  .description('Runs pools of Python workers on this host and keeps them healthy.')
  .version(version, '--version', 'print the version')
  .helpOption('-h, --help', 'print help')
  .showHelpAfterError(`(${ownName()} --help tells more)`)
  // Commander's own suggestions ignore what a command does: `stpo` must not become `stop`.
  .showSuggestionAfterError(false)
  .configureOutput({
    writeErr: (text) => {
      if (!wantsJson) printError(text.trimEnd());
    },
    outputError: (text, write) => write(withSuggestion(text, program, safe)),
  })
  .exitOverride();

/** Commands that neither end, drain nor replace anything: only these may be suggested. */
const safe: string[] = [];

/** Each command's code is loaded only when it runs: `--help` and `version` need none of it. */
function lazy<Args extends unknown[]>(load: () => Promise<(...args: Args) => unknown>) {
  return async (...args: Args): Promise<void> => {
    const run = await load();
    await run(...args);
  };
}

function command(nameAndArgs: string, description: string, kind: 'safe' | 'changes'): Command {
  const added = program.command(nameAndArgs).description(description);
  if (kind === 'safe') safe.push(added.name());
  return added;
}

/** A command that talks to a running agent. */
function talking(nameAndArgs: string, description: string, kind: 'safe' | 'changes'): Command {
  return command(nameAndArgs, description, kind)
    .option(
      '--socket <path>',
      "the agent's socket or its folder (default: PITWARDEN_SOCKET, or agent.sock in the runtime directory)",
    )
    .option('--json', 'print JSON, errors too');
}

/** A command of `ca`, which works on a folder and needs no agent. */
function certifying(nameAndArgs: string, description: string): Command {
  return ca
    .command(nameAndArgs)
    .description(description)
    .requiredOption('--dir <dir>', 'folder of the authority')
    .option('--json', 'print JSON, errors too');
}

command('agent', 'run the agent in the foreground', 'safe')
  .requiredOption('--config <file>', 'its configuration')
  .option('--runtime-dir <dir>', 'folder of its sockets (config: runtime_dir)')
  .option('--state-dir <dir>', 'folder of data that must survive a restart (config: state_dir)')
  .option('--http <host:port>', 'address of /metrics, /healthz and /readyz (config: http)')
  .option('--listen <host:port>', 'loopback address for gRPC over TCP, without authentication (config: listen)')
  .action(lazy(async () => (await import('./cli/agent.ts')).agent));
command('check <file>', 'check a configuration and report all its problems', 'safe').action(
  lazy(async () => (await import('./cli/check.ts')).check),
);
talking('status', 'the node and its pools', 'safe').action(lazy(async () => (await import('./cli/status.ts')).status));
talking('workers', 'the live workers', 'safe')
  .option('--pool <pool>', "only this pool's")
  .action(lazy(async () => (await import('./cli/workers.ts')).workers));
talking('commands [pool]', 'the commands that you can call, with their summaries', 'safe').action(
  lazy(async () => (await import('./cli/commands.ts')).commands),
);
talking('exits', 'how workers ended, newest first', 'safe')
  .option('--pool <pool>', "only this pool's")
  .action(lazy(async () => (await import('./cli/exits.ts')).exits));
talking('explain <worker>', 'why the agent considers a worker well or not, or how it ended', 'safe').action(
  lazy(async () => (await import('./cli/explain.ts')).explain),
);
talking('call <pool> <command>', 'call a command of a pool', 'safe')
  .option('--args <json>', 'arguments: an object by keyword, an array by position')
  .option('--file <path>', "the file's text as the first argument")
  .option('--stdin', 'the text of stdin as the first argument')
  .option('--bytes', 'with --file or --stdin: its bytes as they are, as the only argument')
  .option('--stream', 'print each result of a generator as it comes')
  .option('--progress', 'show on stderr the progress that the command reports')
  .option('--timeout <duration>', "the request's deadline, such as 5s (default: the pool's request.timeout)")
  .option('--idempotent', 'the request may run again when its worker dies')
  .option('--session <id>', 'session id that the command sees')
  .option(
    '--request-id <id>',
    'id of the request: a request that is repeated with its id does not run again (default: a new id)',
  )
  .action(lazy(async () => (await import('./cli/call.ts')).call));
talking('scale <pool> <size>', "set a pool's size", 'changes')
  .option('--force', 'also on a node that a control plane manages; shows as drift there')
  .action(lazy(async () => (await import('./cli/change.ts')).scale));
talking('start <pool>', 'one more worker', 'changes')
  .option('--force', 'also on a node that a control plane manages; shows as drift there')
  .action(lazy(async () => (await import('./cli/change.ts')).start));
talking('stop <worker>', 'stop a worker at once; the size of its pool goes down by one', 'changes')
  .option('--force', 'also on a node that a control plane manages; shows as drift there')
  .option('--replace', 'fill its slot again')
  .action(lazy(async () => (await import('./cli/change.ts')).stop));
talking('drain [target]', 'a worker: finish and stop; a pool or the node: no new requests', 'changes')
  .option('--force', 'also on a node that a control plane manages; shows as drift there')
  .option('--node', 'all pools of the node')
  .action(lazy(async () => (await import('./cli/change.ts')).drain));
talking('resume [pool]', 'take requests again after a drain: the pool, or without one the node', 'changes')
  .option('--force', 'also on a node that a control plane manages; shows as drift there')
  .action(lazy(async () => (await import('./cli/change.ts')).resume));
talking('recycle <target>', 'replace a worker, or all of a pool, with its replacement ready first', 'changes').action(
  lazy(async () => (await import('./cli/change.ts')).recycle),
);
talking('roll <pool>', 'replace all workers of a pool, and show the progress', 'changes')
  .option('--max-failures <n>', 'fail once this many replacements have failed (default: 3)')
  .option('--watch', "show the pool's last roll, and begin none")
  .option('--pause', 'no further replacements')
  .option('--resume', 'go on')
  .option('--abort', 'end the roll; replaced workers stay replaced')
  .action(lazy(async () => (await import('./cli/roll.ts')).roll));
talking('release', 'end the management of this node by a control plane', 'changes')
  .option('--force', 'whoever manages it')
  .action(lazy(async () => (await import('./cli/change.ts')).release));
talking('plan', 'what a reload of the configuration would change, and why', 'safe').action(
  lazy(async () => (await import('./cli/reload.ts')).plan),
);
talking('reload', 'read the configuration again and apply it, or report all its problems', 'changes')
  .option('--plan', 'only show what it would change, as `plan` does')
  .action(lazy(async () => (await import('./cli/reload.ts')).reload));
talking('handover', 'replace the agent with a new one, which takes over its workers', 'changes')
  .option('--timeout <duration>', 'how long to wait for the new agent, such as 60s', '60s')
  .action(lazy(async () => (await import('./cli/handover.ts')).handover));
talking('events', 'what happened since a time, or what happens from now on', 'safe')
  .option(
    '--since <time>',
    'from the history: a duration before now, such as 1h, or a time such as 2026-05-01T12:00:00Z',
  )
  .option('--follow', 'with --since: go on with what happens next')
  .option('--pool <pool>', "only this pool's")
  .option('--worker <worker>', "only this worker's: its whole id; it may have ended")
  .option('--kind <kind...>', 'only these kinds (NodeEvent.kind in control.proto)')
  .action(lazy(async () => (await import('./cli/events.ts')).events));
const ca = command('ca', 'a small certificate authority, for TLS between callers, controllers and agents', 'safe');
// As a command of its own it would suggest those of the agent.
ca.configureOutput({ outputError: (text, write) => write(withSuggestion(text, ca, ['init', 'issue', 'show'])) });
certifying('init', 'make a certificate authority; never replaces one')
  .option('--domain <domain>', 'trust domain of the identities (default: pitwarden.local)')
  .option('--days <n>', 'how long the authority is valid', '3650')
  .action(lazy(async () => (await import('./cli/ca.ts')).caInit));
certifying('issue', 'issue a certificate with a new key, as NAME.crt and NAME.key')
  .requiredOption('--out <name>', 'name of the files, without .crt and .key')
  .option('--role <role>', 'for callers: viewer, operator or caller')
  .option('--controller <name>', 'for a controller')
  .option('--node <node>', "for an agent's server: its node id")
  .option('--pool <pool>', 'with --role caller: for this pool alone')
  .option('--host <host,…>', 'with --node or --controller: host names and IP addresses that are dialled')
  .option('--days <n>', 'how long it is valid', '90')
  .action(lazy(async () => (await import('./cli/ca.ts')).caIssue));
certifying(
  'revoke <certificate>',
  'revoke a certificate, given as its serial or its file, and write the next CRL',
).action(lazy(async () => (await import('./cli/ca.ts')).caRevoke));
certifying('show', 'what was issued to whom, until when, and what is revoked').action(
  lazy(async () => (await import('./cli/ca.ts')).caShow),
);
command('version', 'the version of pitwarden', 'safe').action(
  lazy(async () => {
    const { print } = await import('./cli/print.ts');
    return () => print(version);
  }),
);

process.stdout.on('error', ({ code, message }: NodeJS.ErrnoException) => {
  // A reader that closes the pipe early (`| head`) is no error.
  if (code === 'EPIPE') process.exit(exitCode.ok);
  const problem = `stdout: expected to write the whole output, got ${message}`;
  if (wantsJson) printErrorJson({ message: problem, exit_code: exitCode.failed });
  else printError(problem);
  process.exit(exitCode.failed);
});
// Nobody reads the error message, but the exit code still reports the failure.
process.stderr.on('error', () => undefined);

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

function withSuggestion(text: string, root: Command, commands: readonly string[]): string {
  return `${text.trimEnd()}${suggestion(text, { commands, flags: flagsOf(root) })}`;
}

function flagsOf(root: Command): string[] {
  const flags = [root, ...root.commands].flatMap(({ options }) => options.map(({ long }) => long ?? ''));
  return [...new Set(flags)].filter((flag) => flag !== '');
}

function report(error: unknown): number {
  if (error instanceof CommanderError) {
    // Commander has printed the message already; only its exit code for wrong usage, 1, must be replaced.
    if (error.exitCode === 0) return exitCode.ok;
    if (wantsJson) printErrorJson({ message: error.message.replace(/^error: /, ''), exit_code: exitCode.usage });
    return exitCode.usage;
  }
  const code = error instanceof CliError ? error.code : exitCode.failed;
  const said = error instanceof Error ? error.message : String(error);
  if (wantsJson) {
    printErrorJson({ message: said, ...(error instanceof CliError ? error.details : {}), exit_code: code });
  } else {
    printError(error instanceof Error && !(error instanceof CliError) ? (error.stack ?? said) : said);
  }
  return code;
}
