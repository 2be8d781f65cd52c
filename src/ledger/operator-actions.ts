/**
 * The trail of operators: one row for every change of state that a person asked for, and the cursor of those that take long.
 * Rows are never deleted, a purge included.
 *
 * | state    | means                                                              |
 * |----------|--------------------------------------------------------------------|
 * | started  | it was asked for; nothing is known of its end                      |
 * | running  | it takes long: a worker with a lease carries it out, piece by piece |
 * | done     | it was carried out                                                 |
 * | refused  | it was not carried out, because a condition did not hold           |
 * | failed   | it met an error; `outcome` says which, and what was done before    |
 * | stopped  | an operator stopped it while it ran                                |
 */
export type ActionState = 'started' | 'running' | 'done' | 'refused' | 'failed' | 'stopped';

/** What is asked for. */
export interface NewAction {
  /** Makes a row that is written twice the same row. A UUID. */
  readonly key: string;
  readonly at: Date;
  /** The user of the login, or `user@host` of a command. */
  readonly who: string;
  /** As `gateway.stop`: the thing and the verb. */
  readonly action: string;
  /** On what: `{ gateway: 'primary' }`, `{ correlationId }`, `{ filter }`. */
  readonly target: Readonly<Record<string, unknown>>;
  /** Why, in the operator's words. */
  readonly reason: string | undefined;
}

export interface OperatorAction extends NewAction {
  readonly id: string;
  readonly state: ActionState;
  /** What was known before a change, what came of it, how far it is. */
  readonly outcome: Readonly<Record<string, unknown>> | undefined;
  readonly endedAt: Date | undefined;
}
