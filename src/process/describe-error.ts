/** Name, code and message of an error and of what caused it, in one line and without a stack. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = 'code' in error && typeof error.code === 'string' ? ` ${error.code}` : '';
  // Connecting to a name with several addresses fails with one error for each, under an empty message.
  const inner = error instanceof AggregateError ? error.errors.map(describeError).join(', ') : error.message;
  const own = `${error.name}${code}: ${inner}`;
  // A Redis Cluster that nobody can use says "failed to refresh slots cache"; what the nodes replied is beside it.
  const causedBy = error.cause ?? ('lastNodeError' in error ? error.lastNodeError : undefined) ?? undefined;
  // got wraps its errors in others that say the same.
  const cause = causedBy === undefined ? own : describeError(causedBy);
  return cause.startsWith(own) ? cause : `${own} <- ${cause}`;
}
