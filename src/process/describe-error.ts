/** Name, code and message of an error and of its causes, in one line, without a stack. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = 'code' in error && typeof error.code === 'string' ? ` ${error.code}` : '';
  // A failed connection to a name with several addresses has an empty message and one error for each address.
  const inner =
    error instanceof AggregateError ? error.errors.map(describeError).join(', ') : withoutArguments(error.message);
  const own = `${error.name}${code}: ${inner}`;
  // An unusable Redis Cluster says "failed to refresh slots cache"; `lastNodeError` has the reply of a node.
  const causedBy = error.cause ?? ('lastNodeError' in error ? error.lastNodeError : undefined) ?? undefined;
  // got wraps an error in another one with the same text.
  const cause = causedBy === undefined ? own : describeError(causedBy);
  return cause.startsWith(own) ? cause : `${own} <- ${cause}`;
}

/** Redis repeats the arguments of a command that it does not know. Those of AUTH are user and password. */
export function withoutArguments(message: string): string {
  return message.replace(/, with args beginning with:.*$/s, '');
}
