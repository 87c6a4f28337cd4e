/** Exit codes of all commands; documented in docs/cli.md. */
export const exitCode = {
  ok: 0,
  /** The agent refused, or the called command failed. */
  failed: 1,
  /** Invalid arguments or configuration. */
  usage: 2,
  /** No agent answers. */
  noAgent: 3,
  /**
   * `pitwarden agent` ended by an uncaught error. Its workers live on for the next agent. EX_SOFTWARE of sysexits.h.
   */
  crashed: 70,
  /** A signal cancelled the call; shells use this code for SIGINT. */
  interrupted: 130,
  /** `pitwarden agent` left its workers to a successor, which must now be started. EX_TEMPFAIL of sysexits.h. */
  handedOver: 75,
} as const;

/** Fields that `--json` adds to an error's message: a gRPC status, and the fields of Error in execution.proto. */
export type ErrorDetails = Readonly<Record<string, string | number | boolean>>;

/** An error that ends the command with a message on stderr and an exit code. */
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
