/** Exit codes of every command; docs/cli.md tells people. */
export const exitCode = {
  ok: 0,
  /** The agent, or the command that was called, said no. */
  failed: 1,
  /** Wrong arguments, or a config that is not valid. */
  usage: 2,
  /** No agent answers. */
  noAgent: 3,
  /** Of `pitwarden agent`: an error that nobody caught. Its workers live on for the next agent. EX_SOFTWARE of sysexits.h. */
  crashed: 70,
  /** A signal cancelled the call: as a shell tells of SIGINT. */
  interrupted: 130,
  /** Of `pitwarden agent`: it has left its workers to a successor, which is to be started. EX_TEMPFAIL of sysexits.h. */
  handedOver: 75,
} as const;

/** What `--json` says of an error beyond its message: a gRPC status, and the fields of execution.proto's Error. */
export type ErrorDetails = Readonly<Record<string, string | number | boolean>>;

/** Ends a command with a message on stderr and an exit code. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly code: number;
  readonly details: ErrorDetails;
  constructor(code: number, message: string, details: ErrorDetails = {}) {
    super(message);
    this.code = code;
    this.details = details;
  }
}
