import { withoutArguments } from '../process/describe-error.ts';
import type { Failure } from '../process/outage-log.ts';

/**
 * Too few replicas confirmed in time what was written, or it is not known how many must. They may have it all the same, or get it
 * later.
 */
export class NotReplicatedError extends Error {
  override readonly name = 'NotReplicatedError';
}

/** What the first word of an error reply means, in words for an operator. */
const BY_FIRST_WORD: Readonly<Record<string, Failure>> = {
  OOM: { code: 'out_of_memory', detail: 'Redis is out of memory (maxmemory)' },
  NOREPLICAS: { code: 'too_few_replicas', detail: 'Redis has fewer replicas than its min-replicas-to-write' },
  READONLY: { code: 'read_only', detail: 'this Redis is a replica and cannot be written' },
  MISCONF: { code: 'disk_error', detail: 'Redis cannot write to its disk' },
  LOADING: { code: 'loading', detail: 'Redis is loading its data' },
  WRONGPASS: { code: 'wrong_password', detail: 'Redis does not accept this user or password' },
  NOAUTH: { code: 'wrong_password', detail: 'Redis asks for a password and none is set' },
  WRONGTYPE: { code: 'wrong_type', detail: 'a key of the queue has another type: another program uses this prefix' },
  NOSCRIPT: { code: 'script_refused', detail: 'Redis does not have our script' },
  MASTERDOWN: { code: 'read_only', detail: 'this Redis is a replica that has lost its master' },
  SHARDS: { code: 'other_shards', detail: 'the number of shards does not fit' },
  CLUSTERDOWN: { code: 'cluster_down', detail: 'the Redis Cluster does not serve all slots' },
};

/** How Redis 6.2, Redis 7 and Valkey word a missing right, outside and inside of scripts. */
const NO_RIGHT =
  /NOPERM|ACL failure in script|can't run this command|can't access at least one of the keys|has no permissions/;

/** Whether Redis replied this error. Then the connection works, and a new one would not help. */
export function isErrorReply(error: unknown): boolean {
  return error instanceof Error && error.name === 'ReplyError';
}

/** Whether this error reply means that our user lacks a right. */
export function isMissingRight(message: string): boolean {
  return NO_RIGHT.test(message);
}

/** Why a command to Redis failed: a code of a small set, and one sentence for an operator. */
export function explainRedisError(error: unknown): Failure {
  if (!(error instanceof Error)) return { code: 'unreachable', detail: String(error) };
  if (error instanceof NotReplicatedError) return { code: 'not_replicated', detail: error.message };
  // The error of a cluster says that all nodes failed, and has the reply of the last one inside.
  const { lastNodeError } = error as { lastNodeError?: unknown };
  if (lastNodeError instanceof Error) return explainRedisError(lastNodeError);
  // ioredis wraps the reply to its own first command.
  const reply = withoutArguments(error.message.replace(/^Ready check failed: /, ''));
  if (isSelectError(error)) {
    return { code: 'wrong_database', detail: `Redis does not have the database that REDIS_URL names: ${reply}` };
  }
  if (isMissingRight(reply)) return { code: 'missing_right', detail: `${missingRight(reply)}: ${reply}` };
  const known = BY_FIRST_WORD[/^-?([A-Z]+)\b/.exec(reply)?.[1] ?? ''];
  if (known) return { code: known.code, detail: `${known.detail}: ${reply}` };
  if (isErrorReply(error)) return { code: 'error_reply', detail: `Redis replied with an error: ${reply}` };
  // BullMQ's worker reports a lost job as an error, too.
  if (/\bjob\b/.test(reply)) return { code: 'job_lost', detail: reply };
  const code = 'code' in error && typeof error.code === 'string' ? ` (${error.code})` : '';
  return { code: 'unreachable', detail: `Redis does not respond: ${reply || error.name}${code}` };
}

/** Whether this is an error reply to the SELECT that ioredis sends on a new connection. */
export function isSelectError(error: Error & { command?: { name?: string } }): boolean {
  return isErrorReply(error) && error.command?.name === 'select';
}

function missingRight(reply: string): string {
  const command = /'([^']+)' command/.exec(reply)?.[1];
  if (command) return `the Redis user lacks the right to run ${command.replace('|', ' ').toUpperCase()}`;
  if (reply.includes('key')) return 'the Redis user lacks the right to the keys of the queue';
  return 'the Redis user lacks the right to a command that we need';
}
