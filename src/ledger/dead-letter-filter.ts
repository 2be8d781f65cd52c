import type { GatewayName } from '../payment.ts';
import type { Binding } from './db.ts';
import { DEAD_LETTER_CODES, type DeadLetterCode } from './dead-letters.ts';
import { type GatewayColumn, toGatewayColumn } from './gateway-column.ts';

/** Which open dead letters. Every field that is set must fit. */
export interface DeadLetterFilter {
  readonly code?: DeadLetterCode | undefined;
  /** The gateway of the row. Letters without one fit only a filter without one. */
  readonly gateway?: GatewayName | undefined;
  /** Died at this time or later. */
  readonly from?: Date | undefined;
  /** Died at this time or before. */
  readonly to?: Date | undefined;
  /** Ids of rows, as a list has them. */
  readonly ids?: readonly string[] | undefined;
}

/** A place in a list that is ordered by the time of death, the newest first. */
export interface ListPlace {
  readonly diedAt: Date;
  readonly id: string;
}

const GATEWAY_COLUMNS: readonly (GatewayColumn | null)[] = ['default', 'fallback', null];

/** A part of a WHERE clause. */
interface Condition {
  readonly where: string;
  readonly bindings: readonly Binding[];
}

/** The filter over single rows. */
export function conditionOf({ code, gateway, from, to, ids }: DeadLetterFilter): Condition {
  return all([
    { where: `state = 'open'`, bindings: [] },
    code && { where: 'reason_code = ?', bindings: [code] },
    gateway && { where: 'gateway = ?', bindings: [toGatewayColumn(gateway)] },
    ...timesOf({ from, to }),
    ids && { where: 'id = ANY(?::bigint[])', bindings: [ids] },
  ]);
}

/** The filter as stretches of the index of open letters: one for each reason and gateway that fits. */
export function rangesOf({ code, gateway, from, to }: DeadLetterFilter, after?: ListPlace): Condition[] {
  const codes = code === undefined ? DEAD_LETTER_CODES : [code];
  const columns = gateway === undefined ? GATEWAY_COLUMNS : [toGatewayColumn(gateway)];
  return codes.flatMap((each) =>
    columns.map((column) =>
      all([
        { where: `state = 'open' AND reason_code = '${each}'`, bindings: [] },
        { where: column === null ? 'gateway IS NULL' : `gateway = '${column}'`, bindings: [] },
        ...timesOf({ from, to }),
        after && {
          where: '(died_at, id) < (?::timestamptz, ?::bigint)',
          bindings: [after.diedAt.toISOString(), after.id],
        },
      ]),
    ),
  );
}

function timesOf({ from, to }: Pick<DeadLetterFilter, 'from' | 'to'>): (Condition | undefined)[] {
  return [
    from && { where: 'died_at >= ?::timestamptz', bindings: [from.toISOString()] },
    to && { where: 'died_at <= ?::timestamptz', bindings: [to.toISOString()] },
  ];
}

function all(conditions: readonly (Condition | undefined | '')[]): Condition {
  const set = conditions.filter((condition) => condition !== undefined && condition !== '');
  return { where: set.map(({ where }) => where).join(' AND '), bindings: set.flatMap(({ bindings }) => bindings) };
}
