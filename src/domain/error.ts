/** A bug of ours: the domain was asked for something that its own rules forbid. Bad input never ends up here. */
export class DomainError extends Error {
  override readonly name = 'DomainError';
}
