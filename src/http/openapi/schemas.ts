import { REASON_CODES } from '../../operations/payment-reason.ts';
import { MAX_AMOUNT_CENTS } from '../../payment.ts';
import { PROBLEM_CODES } from '../../telemetry/labels.ts';
import { ERROR_SCHEMAS } from './errors.ts';
import type { Schema } from './operation.ts';
import { OPERATOR_SCHEMAS } from './operator-schemas.ts';
import { RELAY_STATE_SCHEMAS } from './relay-state-schemas.ts';
import { SETTLE_SCHEMAS } from './settle-operations.ts';

const count = (description: string): Schema => ({ type: 'integer', minimum: 0, description });
const time = (description: string): Schema => ({ type: 'string', format: 'date-time', description });
const gateway = (description: string): Schema => ({ type: 'string', enum: ['primary', 'fallback'], description });
const named = (schema: string): Schema => ({ $ref: `#/components/schemas/${schema}` });

const AMOUNT: Schema = {
  type: 'number',
  minimum: 0.01,
  maximum: MAX_AMOUNT_CENTS / 100,
  description: 'In units, with at most two decimals. The noise of floating-point arithmetic is ignored.',
  examples: [19.9],
};

const CORRELATION_ID: Schema = {
  type: 'string',
  format: 'uuid',
  description: 'The idempotency key: whatever is posted under one id is paid once.',
  examples: ['4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3'],
};

const STEERING_STATE: Schema = {
  type: 'string',
  enum: ['open', 'draining', 'stopped'],
  description: '`draining`: only payments that no other gateway may get are sent. `stopped`: none is.',
};

const QUEUE: Schema = {
  type: 'object',
  required: ['queue_size', 'in_flight'],
  properties: {
    queue_size: count('Payments that wait, now or for a later time. This is what the cap counts.'),
    in_flight: count('Payments that workers have taken.'),
  },
};

/** `components.schemas` */
export const SCHEMAS: Readonly<Record<string, Schema>> = {
  ...ERROR_SCHEMAS,
  ...SETTLE_SCHEMAS,
  ...RELAY_STATE_SCHEMAS,
  Payment: {
    type: 'object',
    required: ['correlationId', 'amount'],
    properties: { correlationId: CORRELATION_ID, amount: AMOUNT },
  },
  PaymentStatus: {
    description: 'Where a payment is, and while it is not paid, why.',
    oneOf: [named('PaidPayment'), named('UnpaidPayment')],
  },
  PaidPayment: {
    type: 'object',
    required: ['correlationId', 'state', 'amount', 'gateway', 'requestedAt', 'recordedAt'],
    properties: {
      correlationId: CORRELATION_ID,
      state: { type: 'string', const: 'paid', description: 'A gateway has paid it, and the ledger has recorded it.' },
      amount: AMOUNT,
      gateway: gateway('The gateway that paid it.'),
      requestedAt: time('The time that the gateway has on record for it.'),
      recordedAt: time('When the ledger recorded it.'),
    },
  },
  UnpaidPayment: {
    type: 'object',
    required: ['correlationId', 'state', 'acceptedAt', 'attempts', 'reason', 'detail', 'since'],
    properties: {
      correlationId: CORRELATION_ID,
      state: {
        type: 'string',
        enum: ['unresolved', 'in_flight', 'retrying', 'queued', 'dead_letter', 'discarded'],
        description: [
          'The first that holds:',
          '- `unresolved`: an attempt may have been paid. It stays at its gateway.',
          '- `in_flight`: a worker has taken it.',
          '- `retrying`: it waits for its next attempt.',
          '- `queued`: it waits for its turn.',
          '- `dead_letter`: it can never be paid as it is. An operator must decide.',
          '- `discarded`: an operator has decided that it will not be paid.',
        ].join('\n'),
      },
      amount: { ...AMOUNT, description: 'Missing when the payload has no valid amount.' },
      acceptedAt: time('When it was accepted.'),
      attempts: count('Runs that a worker has started.'),
      boundTo: gateway('The only gateway that may pay it. Missing: either, or none.'),
      reason: { type: 'string', enum: REASON_CODES, description: 'A code: why it is not paid yet.' },
      detail: { type: 'string', description: 'The same as a sentence for people.' },
      since: time('Since when the reason holds.'),
      released: {
        type: 'object',
        description: 'An operator has declared that this gateway has not made it, so both may get it again.',
        required: ['gateway', 'at'],
        properties: { gateway: gateway('The gateway it was released from.'), at: time('When it was released.') },
      },
    },
  },
  GatewayTotals: {
    type: 'object',
    required: ['totalRequests', 'totalAmount'],
    properties: {
      totalRequests: count('Payments.'),
      totalAmount: { type: 'number', minimum: 0, description: 'In units, exact to the cent.' },
    },
  },
  Summary: {
    type: 'object',
    required: ['default', 'fallback'],
    properties: {
      default: { ...named('GatewayTotals'), description: 'The primary gateway.' },
      fallback: { ...named('GatewayTotals'), description: 'The fallback gateway.' },
    },
  },
  Problem: {
    type: 'object',
    description: 'Something that keeps payments from being accepted, paid or kept.',
    required: ['code', 'since', 'cause'],
    properties: {
      code: { type: 'string', enum: PROBLEM_CODES },
      since: time('When it was first seen.'),
      cause: { type: 'string', description: 'A sentence for people.' },
    },
  },
  Health: {
    type: 'object',
    required: ['status', 'queue', 'workers'],
    properties: {
      status: { type: 'string', enum: ['ok', 'degraded'], description: '`degraded`: there are problems.' },
      queue: QUEUE,
      workers: count('Workers that have reported within the last 5 s.'),
      problems: { type: 'array', items: named('Problem'), description: 'The worst first.' },
    },
  },
  HealthUnavailable: {
    type: 'object',
    required: ['status', 'error'],
    properties: {
      status: { type: 'string', const: 'unavailable' },
      error: { type: 'string', const: 'queue_unavailable' },
    },
  },
  Live: {
    type: 'object',
    required: ['status'],
    properties: { status: { type: 'string', const: 'ok' } },
  },
  Ready: {
    type: 'object',
    required: ['status', 'checks'],
    properties: {
      status: { type: 'string', enum: ['ok', 'unavailable'] },
      checks: {
        type: 'object',
        required: ['redis', 'postgres', 'accepting'],
        properties: {
          redis: { type: 'boolean', description: 'Redis can take payments.' },
          postgres: { type: 'boolean', description: 'PostgreSQL responds. Reported only.' },
          accepting: { type: 'boolean', description: 'The process is not shutting down.' },
        },
      },
    },
  },
  SteeredBy: {
    type: 'object',
    description: 'The operator who decided it. Missing when no operator is known.',
    required: ['who', 'at'],
    properties: {
      who: { type: 'string', description: 'The user of the login, or of the command.' },
      reason: { type: 'string' },
      at: time("By Redis' clock."),
    },
  },
  PausedQueue: {
    type: 'object',
    required: ['isPaused', 'inFlight'],
    properties: {
      isPaused: { type: 'boolean', description: 'Workers take no payments, or with shards none of one at least.' },
      by: named('SteeredBy'),
      inFlight: count('Payments that workers have taken. They are paid all the same.'),
    },
  },
  SteeredGateway: {
    type: 'object',
    description: 'A gateway as operators have steered it.',
    required: ['state', 'isFollowed', 'isDrained', 'unresolved', 'workers'],
    properties: {
      state: STEERING_STATE,
      by: named('SteeredBy'),
      isFollowed: { type: 'boolean', description: 'Every live worker has reported that it follows.' },
      isDrained: {
        type: 'boolean',
        description:
          'Stopped: every worker has reported since then that nothing is under way. Draining: that, and no payment is left that ' +
          'only this gateway may get.',
      },
      notDrained: { type: 'string', description: 'Why it is not drained. Missing when it is, or while it is open.' },
      unresolved: count('Payments that only this gateway may get.'),
      workers: { type: 'array', items: named('FollowingWorker') },
    },
  },
  FollowingWorker: {
    type: 'object',
    description: 'A live worker, as its last heartbeat says.',
    required: ['host', 'pid', 'underWay', 'waiting'],
    properties: {
      host: { type: 'string' },
      pid: { type: 'integer' },
      steered: { ...STEERING_STATE, description: 'What it follows. Missing: its version knows of no steering.' },
      underWay: count('Attempts and look-ups under way.'),
      waiting: count('Payments that wait in it for the gateway.'),
    },
  },
  SteeredGateways: {
    type: 'object',
    required: ['primary', 'fallback'],
    properties: { primary: named('SteeredGateway'), fallback: named('SteeredGateway') },
  },
  ...OPERATOR_SCHEMAS,
  DashboardConflict: {
    type: 'object',
    description: "In the form that bull-board's page shows.",
    required: ['error', 'message'],
    properties: {
      error: { type: 'object', required: ['key'], properties: { key: { type: 'string' } } },
      message: { type: 'string', description: 'Why, as a sentence.' },
    },
  },
  OperatorActions: {
    type: 'object',
    required: ['actions'],
    properties: { actions: { type: 'array', items: named('OperatorAction') } },
  },
  Purged: {
    type: 'object',
    required: ['message'],
    properties: { message: { type: 'string' } },
  },
};
