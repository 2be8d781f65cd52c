import type { IncomingMessage } from 'node:http';
import { InvalidRequestError, type ParameterFault } from '../../../errors.ts';
import { parseInstant } from '../../../ledger/summary-range.ts';
import type { Statement } from '../../../operations/refusal.ts';
import { MAX_PAGE, type UnresolvedFilter } from '../../../operations/settle-unresolved.ts';
import { type GatewayName, parseAmountCents } from '../../../payment.ts';
import { readJsonBody } from '../../payments/json-body.ts';
import { MAX_REASON_LENGTH } from './reason-body.ts';

/** What an operator sends to settle payments. A reason is needed unless it is a dry run. */
export interface SettleBody {
  readonly isDryRun: boolean;
  readonly reason: string;
}

/** Reads the body of a release or a reject. @throws InvalidRequestError with all faults, and as `readJsonBody` does */
export async function readSettleBody(request: IncomingMessage): Promise<SettleBody> {
  return readFields(request, settleOf);
}

/** Reads what a provider says that its gateway has made. @throws as `readSettleBody` does */
export async function readStatement(request: IncomingMessage): Promise<SettleBody & { statement: Statement }> {
  return readFields(request, (fields, faults) => {
    const amountCents = parseAmountCents(fields['amount']);
    if (amountCents === undefined) faults.push({ param: 'amount', message: 'must be an amount in units' });
    const { requestedAt: text } = fields;
    const requestedAt = typeof text === 'string' && text.includes('T') ? dateOf(text) : undefined;
    if (requestedAt === undefined)
      faults.push({ param: 'requestedAt', message: 'must be a date-time in ISO 8601, as the gateway has it' });
    const gateway = gatewayOf(fields, faults);
    return {
      ...settleOf(fields, faults),
      statement: { gateway, amountCents: amountCents!, requestedAt: requestedAt! },
    };
  });
}

/** Reads which unresolved payments an operator means. @throws as `readSettleBody` does */
export async function readFilter(request: IncomingMessage): Promise<SettleBody & { filter: UnresolvedFilter }> {
  return readFields(request, (fields, faults) => {
    const { olderThan: text, offset = 0, limit = MAX_PAGE } = fields;
    const olderThan = typeof text === 'string' ? dateOf(text) : undefined;
    if (text !== undefined && olderThan === undefined)
      faults.push({ param: 'olderThan', message: 'must be a date or date-time in ISO 8601' });
    if (!isWithin(offset, 0, Number.MAX_SAFE_INTEGER))
      faults.push({ param: 'offset', message: 'must be an integer >= 0' });
    if (!isWithin(limit, 1, MAX_PAGE))
      faults.push({ param: 'limit', message: `must be an integer from 1 to ${MAX_PAGE}` });
    const gateway = gatewayOf(fields, faults);
    const filter = { gateway, olderThan, offset: Number(offset), limit: Number(limit) };
    return { ...settleOf(fields, faults), filter };
  });
}

type Fields = Readonly<Record<string, unknown>>;

async function readFields<T>(
  request: IncomingMessage,
  read: (fields: Fields, faults: ParameterFault[]) => T,
): Promise<T> {
  const { value } = await readJsonBody(request);
  const faults: ParameterFault[] = [];
  const body = read(typeof value === 'object' && value !== null ? (value as Fields) : {}, faults);
  if (faults.length > 0) throw new InvalidRequestError(faults);
  return body;
}

function settleOf({ reason, dryRun = false }: Fields, faults: ParameterFault[]): SettleBody {
  const text = typeof reason === 'string' ? reason.trim() : '';
  if (typeof dryRun !== 'boolean') faults.push({ param: 'dryRun', message: 'must be true or false' });
  if ((text === '' && dryRun !== true) || text.length > MAX_REASON_LENGTH)
    faults.push({ param: 'reason', message: `must be a text of 1 to ${MAX_REASON_LENGTH} characters` });
  return { isDryRun: dryRun === true, reason: text };
}

function gatewayOf({ gateway }: Fields, faults: ParameterFault[]): GatewayName {
  if (gateway === 'primary' || gateway === 'fallback') return gateway;
  faults.push({ param: 'gateway', message: 'must be primary or fallback' });
  return 'primary';
}

function dateOf(text: string): Date | undefined {
  const instant = parseInstant(text);
  return instant && new Date(instant.ms);
}

function isWithin(value: unknown, least: number, most: number): boolean {
  return Number.isInteger(value) && Number(value) >= least && Number(value) <= most;
}
