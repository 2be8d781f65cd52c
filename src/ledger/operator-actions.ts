import { randomUUID } from 'node:crypto';
import type { Knex } from 'knex';
import { type Binding, query } from './db.ts';

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
 *
 * A row stays `started` when the process ended between the row and the outcome: then the change was made or not, and only the
 * thing itself can tell.
 */
export type ActionState = 'started' | 'running' | 'done' | 'refused' | 'failed' | 'stopped';

/** Any JSON object. */
type Json = Readonly<Record<string, unknown>>;

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
  readonly target: Json;
  /** Why, in the operator's words. */
  readonly reason: string | undefined;
}

/** An action as far as it is known. */
export interface ActionRow extends NewAction {
  readonly state: ActionState;
  /** What was known before a change, and what came of it. */
  readonly outcome: Json | undefined;
  readonly endedAt: Date | undefined;
}

export interface OperatorAction extends ActionRow {
  readonly id: string;
  /** Of one that takes long: its pace, and how far it is. */
  readonly perSecond: number | undefined;
  readonly progress: Json | undefined;
}

/** An action that takes long, while one worker carries it out. */
export interface LeasedAction extends OperatorAction {
  /** Where to go on, as {@link OperatorActions.advance} has noted it. Undefined: at the beginning. */
  readonly cursor: string | undefined;
  /** A text that no other lease has. */
  readonly lease: string;
  readonly leaseSeconds: number;
}

/** All functions throw LedgerUnavailableError when PostgreSQL gives no usable response. What they write may be written then. */
export interface OperatorActions {
  /** Adds a row, or writes the end of one that is `started`. An end is final, so rows may come twice and in any order. */
  put(row: ActionRow): Promise<void>;
  /** Adds an action that takes long, as `running`. @returns its id */
  begin(action: NewAction, perSecond: number): Promise<string>;
  /** The newest first. @param before the id of the last one of the page before */
  list(page: { readonly before?: string | undefined; readonly limit: number }): Promise<readonly OperatorAction[]>;
  /** Those that a worker carries out, or will, the oldest first. At most 100. */
  running(): Promise<readonly OperatorAction[]>;
  find(id: string): Promise<OperatorAction | undefined>;
  /**
   * Takes the oldest running action, unless a worker has it: one action runs at a time. It is this worker's for so many
   * seconds, and again so many after each `advance`.
   */
  lease(worker: string, seconds: number): Promise<LeasedAction | undefined>;
  /**
   * Notes how far a leased action is. False when it was stopped or the lease was lost: then the worker must do no more of it.
   * After a stop the outcome has what was done until then; after a lost lease nothing was noted.
   */
  advance(action: LeasedAction, cursor: string, progress: Json): Promise<boolean>;
  /** Gives the lease back, so that another worker goes on at once. */
  release(action: LeasedAction): Promise<void>;
  /** Ends a leased action. False when it was stopped or the lease was lost. */
  end(action: LeasedAction, state: 'done' | 'failed', outcome: Json): Promise<boolean>;
  /** Ends a running action, also without its lease. Its worker notices at its next `advance`. False when it does not run. */
  stop(id: string, who: string): Promise<boolean>;
}

interface Row {
  readonly id: string;
  readonly key: string;
  readonly at: Date;
  readonly who: string;
  readonly action: string;
  readonly target: Json;
  readonly reason: string | null;
  readonly state: ActionState;
  readonly outcome: Json | null;
  readonly ended_at: Date | null;
  readonly per_second: number | null;
  readonly progress: Json | null;
  readonly cursor: string | null;
}

const COLUMNS = 'id, key, at, who, action, target, reason, state, outcome, ended_at, per_second, progress, cursor';

export function createOperatorActions(db: Knex): OperatorActions {
  const changesOne = async (sql: string, bindings: readonly Binding[]) =>
    (await query(db, `${sql} RETURNING id`, bindings)).length === 1;

  return {
    async put({ state, outcome, endedAt, ...action }) {
      await query(
        db,
        `INSERT INTO operator_actions (key, at, who, action, target, reason, state, outcome, ended_at)
         VALUES (?::uuid, ?::timestamptz, ?, ?, ?::jsonb, ?, ?, ?::jsonb, ?::timestamptz)
         ON CONFLICT (key) DO UPDATE
           SET state = excluded.state, outcome = excluded.outcome, ended_at = excluded.ended_at
           WHERE operator_actions.state = 'started'`,
        [...bindingsOf(action), state, outcome ? jsonText(outcome) : null, endedAt?.toISOString() ?? null].map(
          nullable,
        ),
      );
    },
    async begin(action, perSecond) {
      const rows = await query<{ id: string }>(
        db,
        `INSERT INTO operator_actions (key, at, who, action, target, reason, state, per_second)
         VALUES (?::uuid, ?::timestamptz, ?, ?, ?::jsonb, ?, 'running', ?) RETURNING id`,
        [...bindingsOf(action), perSecond].map(nullable),
      );
      return rows[0]!.id;
    },
    async list({ before, limit }) {
      const rows = await query<Row>(
        db,
        `SELECT ${COLUMNS} FROM operator_actions
         ${before === undefined ? '' : 'WHERE (at, id) < (SELECT at, id FROM operator_actions WHERE id = ?)'}
         ORDER BY at DESC, id DESC LIMIT ?`,
        before === undefined ? [limit] : [before, limit],
      );
      return rows.map(toAction);
    },
    async running() {
      const rows = await query<Row>(
        db,
        `SELECT ${COLUMNS} FROM operator_actions WHERE state = 'running' ORDER BY id LIMIT 100`,
        [],
      );
      return rows.map(toAction);
    },
    async find(id) {
      const [row] = await query<Row>(db, `SELECT ${COLUMNS} FROM operator_actions WHERE id = ?`, [id]);
      return row && toAction(row);
    },
    async lease(worker, seconds) {
      // Two leases of one worker differ, too: its first may be lost while it is still at work.
      const lease = `${worker} ${randomUUID()}`;
      const [row] = await query<Row>(
        db,
        `UPDATE operator_actions SET lease = ?, lease_until = clock_timestamp() + ? * interval '1 second'
         WHERE id = (SELECT id FROM operator_actions WHERE state = 'running' ORDER BY id LIMIT 1 FOR UPDATE)
           AND (lease_until IS NULL OR lease_until < clock_timestamp())
         RETURNING ${COLUMNS}`,
        [lease, seconds],
      );
      return row && { ...toAction(row), cursor: row.cursor ?? undefined, lease, leaseSeconds: seconds };
    },
    async advance({ id, lease, leaseSeconds }, cursor, progress) {
      const text = jsonText(progress);
      const [row] = await query<{ state: ActionState }>(
        db,
        `UPDATE operator_actions
         SET cursor = ?, progress = ?::jsonb, lease_until = clock_timestamp() + ? * interval '1 second',
           outcome = CASE WHEN state = 'stopped' THEN (outcome || ?::jsonb) - 'waiting' END
         WHERE id = ? AND lease = ? AND state IN ('running', 'stopped') RETURNING state`,
        [cursor, text, leaseSeconds, text, id, lease],
      );
      return row?.state === 'running';
    },
    async release({ id, lease }) {
      await query(db, 'UPDATE operator_actions SET lease_until = NULL WHERE id = ? AND lease = ?', [id, lease]);
    },
    end: ({ id, lease }, state, outcome) =>
      changesOne(
        `UPDATE operator_actions SET state = ?, outcome = ?::jsonb, ended_at = clock_timestamp()
         WHERE id = ? AND lease = ? AND state = 'running'`,
        [state, jsonText(outcome), id, lease],
      ),
    stop: (id, who) =>
      changesOne(
        `UPDATE operator_actions SET state = 'stopped', ended_at = clock_timestamp(),
           outcome = coalesce(progress, '{}') || jsonb_build_object('stoppedBy', ?::text)
         WHERE id = ? AND state = 'running'`,
        [storable(who), id],
      ),
  };
}

function bindingsOf({ key, at, who, action, target, reason }: NewAction): (string | undefined)[] {
  return [key, at.toISOString(), storable(who), action, jsonText(target), reason && storable(reason)];
}

/** knex takes null for NULL, not undefined. Its own type has no null. */
function nullable<T>(value: T | undefined): Knex.RawBinding {
  return (value ?? null) as Knex.RawBinding;
}

/** A text as PostgreSQL can store it. It has no NUL and no half of a surrogate pair; people paste both. */
function storable(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\u{FFFD}');
}

/** The same for every text and key of an object, as JSON. */
function jsonText(value: Json): string {
  return JSON.stringify(value, (_key, part: unknown) => {
    if (typeof part === 'string') return storable(part);
    if (typeof part !== 'object' || part === null || Array.isArray(part)) return part;
    return Object.fromEntries(Object.entries(part).map(([key, inner]) => [storable(key), inner]));
  });
}

function toAction({ ended_at, per_second, reason, outcome, progress, cursor: _cursor, ...row }: Row): OperatorAction {
  return {
    ...row,
    reason: reason ?? undefined,
    outcome: outcome ?? undefined,
    endedAt: ended_at ?? undefined,
    perSecond: per_second ?? undefined,
    progress: progress ?? undefined,
  };
}
