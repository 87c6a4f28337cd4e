/**
 * A bug in the agent: the domain was asked for something that its own rules forbid. Invalid input never causes this
 * error.
 */
export class DomainError extends Error {
  override readonly name = 'DomainError';
}
