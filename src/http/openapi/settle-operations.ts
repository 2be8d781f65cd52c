import { REFUSALS } from '../../operations/refusal.ts';
import { MAX_PAGE } from '../../operations/settle-unresolved.ts';
import { MAX_REASON_LENGTH } from '../operator/admin-api/reason-body.ts';
import { json, type Operation, type Schema } from './operation.ts';

const GATEWAY = { type: 'string', enum: ['primary', 'fallback'] };
const REASON = { type: 'string', minLength: 1, maxLength: MAX_REASON_LENGTH, description: 'For the trail.' };
const DRY_RUN = { type: 'boolean', description: 'Changes nothing and says what would be done. Needs no reason.' };
const AMOUNT = { type: 'number', description: 'In units.' };
const TIME = { type: 'string', format: 'date-time' };

const CONDITIONS =
  'Only while the gateway is stopped, every worker has reported since then that it has nothing under way there, and the last ' +
  'attempt is older than `RELEASE_AFTER_MS`. A payment in flight is refused.';

const ERRORS = [
  'invalid_json',
  'invalid_request',
  'queue_unavailable',
  'ledger_unavailable',
  'internal_error',
] as const satisfies Operation['errors'];

/** What operators do with payments that stay unresolved for good. */
export const SETTLE_OPERATIONS: Readonly<Record<string, Operation>> = {
  'POST /admin/api/payments/:correlationId/record': onPayment(
    {
      id: 'recordPayment',
      summary: 'Record a payment that a gateway has made',
      description: 'As the provider states it. The ledger gets the row, and nothing is sent any more.',
      responses: { 200: json('The ledger has it.', 'SettledPayment') },
    },
    ['gateway', 'amount', 'requestedAt', 'reason'],
    { gateway: GATEWAY, amount: AMOUNT, requestedAt: TIME, reason: REASON },
  ),
  'POST /admin/api/payments/:correlationId/release': onPayment(
    {
      id: 'releasePayment',
      summary: 'Release a payment that a gateway has not made',
      description: `Both gateways may get it again. If the gateway has made it after all, it is paid twice. ${CONDITIONS}`,
      responses: { 200: json('It is free, or would be.', 'SettledPayment') },
    },
    [],
    { reason: REASON, dryRun: DRY_RUN },
  ),
  'POST /admin/api/payments/:correlationId/reject': onPayment(
    {
      id: 'rejectPayment',
      summary: 'Reject a payment that no gateway will make',
      description: `It becomes a dead letter with this reason. ${CONDITIONS}`,
      responses: { 200: json('It is a dead letter, or would be.', 'SettledPayment') },
    },
    [],
    { reason: REASON, dryRun: DRY_RUN },
  ),
  'POST /admin/api/unresolved/release': onFilter('releaseUnresolved', 'Release unresolved payments of a gateway'),
  'POST /admin/api/unresolved/reject': onFilter('rejectUnresolved', 'Reject unresolved payments of a gateway'),
};

/** For `components.schemas`. */
export const SETTLE_SCHEMAS: Readonly<Record<string, Schema>> = {
  SettledPayment: {
    type: 'object',
    required: ['correlationId', 'gateway', 'result'],
    properties: {
      correlationId: { type: 'string', format: 'uuid' },
      gateway: { ...GATEWAY, description: 'Recorded for it, released from it, or rejected there.' },
      result: { type: 'string', enum: ['recorded', 'released', 'rejected'] },
    },
  },
  NotSettledPayment: {
    type: 'object',
    required: ['correlationId', 'result', 'reason', 'message'],
    properties: {
      correlationId: { type: 'string' },
      result: { type: 'string', const: 'refused' },
      reason: { type: 'string', enum: [...REFUSALS, 'not_found'] },
      message: { type: 'string', description: 'Why, as a sentence.' },
    },
  },
  SettledPage: {
    type: 'object',
    required: ['payments'],
    properties: {
      payments: {
        type: 'array',
        items: {
          oneOf: [{ $ref: '#/components/schemas/SettledPayment' }, { $ref: '#/components/schemas/NotSettledPayment' }],
        },
      },
      next: { type: 'integer', minimum: 0, description: '`offset` of the next page. Missing: this was the last.' },
    },
  },
  SettleConflict: {
    type: 'object',
    description: 'A condition does not hold, and nothing was changed.',
    required: ['error', 'reason', 'message'],
    properties: {
      error: { type: 'string', const: 'conflict' },
      reason: { type: 'string', enum: REFUSALS },
      message: { type: 'string', description: 'The same as a sentence.' },
      recorded: {
        type: 'object',
        description: 'The row of the ledger that contradicts the statement.',
        required: ['gateway', 'amount', 'requestedAt'],
        properties: { gateway: GATEWAY, amount: AMOUNT, requestedAt: TIME },
      },
    },
  },
};

type Described = Pick<Operation, 'id' | 'summary' | 'description' | 'responses'>;

function onPayment(described: Described, required: readonly string[], properties: Schema): Operation {
  const schema = { type: 'string', format: 'uuid' };
  return {
    ...operation(described, required, properties),
    parameters: [{ name: 'correlationId', in: 'path', required: true, schema }],
    errors: [...ERRORS, 'not_found', 'busy'],
  };
}

function onFilter(id: string, summary: string): Operation {
  const properties = {
    gateway: GATEWAY,
    olderThan: { type: 'string', description: 'ISO 8601: unresolved since then or earlier. Missing: all.' },
    offset: { type: 'integer', minimum: 0, description: '`next` of the page before.' },
    limit: { type: 'integer', minimum: 1, maximum: MAX_PAGE },
    reason: REASON,
    dryRun: DRY_RUN,
  };
  const description = `One page, the oldest first. Each payment is settled or refused by itself. ${CONDITIONS}`;
  const responses = { 200: json('What came of each payment, or would.', 'SettledPage') };
  return operation({ id, summary, description, responses }, ['gateway'], properties);
}

function operation({ responses, ...described }: Described, required: readonly string[], properties: Schema): Operation {
  return {
    ...described,
    tag: 'Operator',
    requestBody: {
      required: true,
      content: { 'application/json': { schema: { type: 'object', required, properties } } },
    },
    responses: { ...responses, 409: json('A condition does not hold.', 'SettleConflict') },
    errors: ERRORS,
  };
}
