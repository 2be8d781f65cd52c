import { InvalidRequestError, type ParameterFault } from '../errors.ts';
import type { DeadLetterFilter } from '../ledger/dead-letter-filter.ts';
import { DEAD_LETTER_CODES, type DeadLetterCode } from '../ledger/dead-letters.ts';
import { parseRange } from '../ledger/summary-range.ts';
import type { GatewayName } from '../payment.ts';
import { MAX_IDS } from './dead-letter-actions.ts';
import { type ListQuery, parsePlace } from './dead-letter-list.ts';

/** What operators may ask for about dead letters, of the API and of the command. Each function lists all faults at once. */

export const PER_SECOND = { default: 50, max: 1_000 };

/** Letters of a page. */
const LIMIT = { default: 50, max: 200 };

/** Characters of a reason in the trail. */
const MAX_REASON = 500;

export interface ActionRequest {
  readonly filter: DeadLetterFilter;
  readonly isDryRun: boolean;
  readonly perSecond: number;
  /** Empty for a dry run without one. */
  readonly reason: string;
}

type Fields = Readonly<Record<string, unknown>>;

const FILTER_FIELDS = ['reason', 'gateway', 'from', 'to'];
const GATEWAYS: readonly string[] = ['primary', 'fallback'] satisfies GatewayName[];

/** The query of a list. Unknown parameters are ignored, as everywhere. @throws InvalidRequestError */
export function parseListQuery(query: Fields): ListQuery {
  const faults: ParameterFault[] = [];
  const filter = readFilter('', query, faults);
  const limit = query['limit'] === undefined ? LIMIT.default : Number(query['limit']);
  expectInteger('limit', limit, LIMIT.max, faults);
  const { after: place } = query;
  const after = typeof place === 'string' ? parsePlace(place) : undefined;
  if (place !== undefined && after === undefined) faults.push({ param: 'after', message: 'must be `next` of a page' });
  expectNone(faults);
  return { filter, after, limit };
}

/**
 * The body of an action. A field that we do not know is a fault: a filter with a wrong name would fit more letters than the
 * operator means.
 * @throws InvalidRequestError
 */
export function parseActionRequest(body: unknown, maxPerSecond = PER_SECOND.max): ActionRequest {
  if (!isRecord(body)) throw new InvalidRequestError([{ param: 'body', message: 'must be a JSON object' }]);
  const faults: ParameterFault[] = [];
  expectKnown('', body, ['filter', 'ids', 'all', 'dryRun', 'perSecond', 'reason'], faults);
  const { ids, all = false, dryRun = false, perSecond = PER_SECOND.default } = body;
  for (const [param, value] of Object.entries({ all, dryRun })) {
    if (typeof value !== 'boolean') faults.push({ param, message: 'must be true or false' });
  }
  expectInteger('perSecond', perSecond, maxPerSecond, faults);
  const reason = readReason(body['reason'], faults);
  if (reason === undefined && dryRun !== true && !faults.some(({ param }) => param === 'reason')) {
    faults.push({ param: 'reason', message: 'is required: the trail keeps why' });
  }
  const selected = ids === undefined ? readSelection(body, faults) : readIds(body, faults);
  expectNone(faults);
  return { filter: selected, isDryRun: dryRun === true, perSecond: perSecond as number, reason: reason ?? '' };
}

/** Why, in the operator's words. Undefined when it is missing. @throws InvalidRequestError */
export function parseReason(value: unknown): string | undefined {
  const faults: ParameterFault[] = [];
  const reason = readReason(value, faults);
  expectNone(faults);
  return reason;
}

/** An id of a row in PostgreSQL. */
export function isRowId(value: unknown): value is string {
  return typeof value === 'string' && /^[1-9]\d{0,17}$/.test(value);
}

function readReason(value: unknown, faults: ParameterFault[]): string | undefined {
  if (value === undefined) return undefined;
  const text = typeof value === 'string' ? value.trim() : '';
  if (text === '' || text.length > MAX_REASON) {
    faults.push({ param: 'reason', message: `must be a text of 1 to ${MAX_REASON} characters` });
  }
  return text;
}

function readSelection({ filter = {}, all }: Fields, faults: ParameterFault[]): DeadLetterFilter {
  if (!isRecord(filter)) {
    faults.push({ param: 'filter', message: 'must be a JSON object' });
    return {};
  }
  expectKnown('filter.', filter, FILTER_FIELDS, faults);
  const filterFaults: ParameterFault[] = [];
  const parsed = readFilter('filter.', filter, filterFaults);
  faults.push(...filterFaults);
  // Not by the fields that were sent: an empty `from` means no bound.
  const isEmpty = Object.values(parsed).every((value) => value === undefined);
  if (isEmpty && all !== true && filterFaults.length === 0) {
    faults.push({ param: 'filter', message: 'is empty: send `all: true` to mean every open dead letter' });
  }
  if (!isEmpty && all === true) faults.push({ param: 'all', message: 'must not be combined with a filter' });
  return parsed;
}

function readIds({ ids, filter, all }: Fields, faults: ParameterFault[]): DeadLetterFilter {
  if (filter !== undefined || all === true) {
    faults.push({ param: 'ids', message: 'must not be combined with a filter or with `all`' });
  }
  const isList = Array.isArray(ids) && ids.length >= 1 && ids.length <= MAX_IDS && ids.every(isRowId);
  if (!isList) faults.push({ param: 'ids', message: `must be 1 to ${MAX_IDS} ids of dead letters, as texts` });
  return isList ? { ids: [...new Set(ids as string[])] } : {};
}

/** @param prefix of the parameters in the faults */
function readFilter(prefix: string, fields: Fields, faults: ParameterFault[]): DeadLetterFilter {
  const oneOf = (param: string, values: readonly string[]): string | undefined => {
    const value = fields[param];
    if (value === undefined) return undefined;
    if (!values.includes(value as string)) {
      faults.push({ param: `${prefix}${param}`, message: `must be one of ${values.join(', ')}` });
    }
    return value as string;
  };
  const code = oneOf('reason', DEAD_LETTER_CODES) as DeadLetterCode | undefined;
  const gateway = oneOf('gateway', GATEWAYS) as GatewayName | undefined;
  try {
    return { code, gateway, ...parseRange(fields, 'optional') };
  } catch (error) {
    if (!(error instanceof InvalidRequestError)) throw error;
    faults.push(...error.faults.map(({ param, message }) => ({ param: `${prefix}${param}`, message })));
    return {};
  }
}

function expectInteger(param: string, value: unknown, max: number, faults: ParameterFault[]): void {
  if (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= max) return;
  faults.push({ param, message: `must be a whole number from 1 to ${max}` });
}

function expectKnown(prefix: string, fields: Fields, known: readonly string[], faults: ParameterFault[]): void {
  for (const name of Object.keys(fields)) {
    if (!known.includes(name)) faults.push({ param: `${prefix}${name}`, message: 'is not known here' });
  }
}

function expectNone(faults: readonly ParameterFault[]): void {
  if (faults.length > 0) throw new InvalidRequestError(faults);
}

function isRecord(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
