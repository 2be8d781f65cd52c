import { InvalidRequestError, type ParameterFault } from '../errors.ts';

/** The time range of a summary. It includes both bounds; without a bound it has no end on that side. */
export interface SummaryRange {
  readonly from?: Date | undefined;
  readonly to?: Date | undefined;
}

/**
 * Parses a range from the texts `from` and `to`, for the summary's query and for operators' commands.
 * @param rule whether both bounds must be given
 * @throws InvalidRequestError that names every fault
 */
export function parseRange(query: Readonly<Record<string, unknown>>, rule: 'required' | 'optional'): SummaryRange {
  const faults: ParameterFault[] = [];
  const bound = (param: 'from' | 'to'): Instant | undefined => {
    const text = query[param];
    if (text === undefined || text === '') {
      if (rule === 'required') faults.push({ param, message: 'is required' });
      return undefined;
    }
    const instant = typeof text === 'string' ? parseInstant(text) : undefined;
    if (instant === undefined) faults.push({ param, message: 'must be an ISO 8601 date or date-time' });
    return instant;
  };
  const from = bound('from');
  const to = bound('to');
  if (from && to && isAfter(from, to)) faults.push({ param: 'from', message: 'must not be after to' });
  if (faults.length > 0) throw new InvalidRequestError(faults);
  // The ledger stores milliseconds. The range must not include more than the client asked for, so it begins with the first
  // whole millisecond in it and ends with the last. A range within one millisecond is empty: its `from` is after its `to`.
  return {
    from: from && new Date(from.ms + (from.beyond === '' ? 0 : 1)),
    to: to && new Date(to.ms),
  };
}

/** An instant in the precision of its text. */
export interface Instant {
  /** Whole milliseconds since 1970, rounded down. */
  readonly ms: number;
  /** The decimals of the second after the third, without trailing zeros. */
  readonly beyond: string;
}

function isAfter(a: Instant, b: Instant): boolean {
  // Fractions without trailing zeros compare as texts do.
  return a.ms > b.ms || (a.ms === b.ms && a.beyond > b.beyond);
}

const FIRST_INSTANT = new Date('0001-01-01T00:00:00Z');
const LAST_INSTANT = new Date('9999-12-31T23:59:59.999Z');

/** A space is the + of an offset that the client did not percent-encode. */
const INSTANT = /^(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?(Z|[+\- ]\d\d(?::?\d\d)?)?)?$/i;

/**
 * Parses an ISO 8601 date or date-time. A date means 00:00; no offset means UTC. Undefined for anything else, also for
 * days that do not exist.
 */
export function parseInstant(text: string): Instant | undefined {
  const match = INSTANT.exec(text);
  if (!match) return undefined;
  const [, year, month, day, hour = '00', minute = '00', second = '00', fraction = '', zone = 'Z'] = match;
  const date = `${year}-${month}-${day}`;
  const instant = new Date(`${date}T${hour}:${minute}:${second}.${fraction.padEnd(3, '0').slice(0, 3)}${offset(zone)}`);
  // ISO 8601 and PostgreSQL write only the years 1 to 9999 alike. An offset may lead out of them.
  if (!(instant >= FIRST_INSTANT && instant <= LAST_INSTANT)) return undefined;
  // Date reads 30 February as 2 March.
  if (!new Date(`${date}T00:00:00Z`).toISOString().startsWith(date)) return undefined;
  return { ms: instant.getTime(), beyond: fraction.slice(3).replace(/0+$/, '') };
}

function offset(zone: string): string {
  if (zone.toUpperCase() === 'Z') return 'Z';
  const digits = zone.slice(1).replace(':', '').padEnd(4, '0');
  return `${zone[0] === '-' ? '-' : '+'}${digits.slice(0, 2)}:${digits.slice(2)}`;
}
