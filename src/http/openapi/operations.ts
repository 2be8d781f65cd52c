import type { Config } from '../../config.ts';
import { ADMIN_OPERATIONS } from './admin-operations.ts';
import { DEAD_LETTER_OPERATIONS } from './dead-letter-operations.ts';
import { json, type Operation, type Schema } from './operation.ts';
import { SETTLE_OPERATIONS } from './settle-operations.ts';
import { STEERING_OPERATIONS } from './steering-operations.ts';

/**
 * Every endpoint that can exist, by method and path as in the table of routes; of routes with a mount, by the mount. A route
 * without its entry here fails the tests.
 */
export function createOperations(config: Config['http']): Readonly<Record<string, Operation>> {
  return {
    'POST /payments': {
      id: 'postPayment',
      tag: 'Payments',
      summary: 'Enqueue a payment',
      description: [
        'The response comes once the payment is in Redis. A worker pays it later.',
        config.validatePayments
          ? 'This node checks the payload first.'
          : 'Any JSON is accepted. A worker checks the payload, and an invalid one becomes a dead letter.',
        'Posting the same `correlationId` again is always safe: it is paid once, with the amount that came first. So a client ' +
          'that gets no response, or a 503, posts again.',
      ].join('\n\n'),
      requestBody: {
        required: true,
        description: 'At most 64 KiB, in UTF-8. The `Content-Type` does not matter.',
        content: { 'application/json': { schema: { $ref: '#/components/schemas/Payment' } } },
      },
      responses: { 204: { description: 'The payment is queued, or was posted before.' } },
      errors: [
        'invalid_json',
        ...(config.validatePayments ? (['invalid_request'] as const) : []),
        'payload_too_large',
        'queue_full',
        'queue_unavailable',
        'internal_error',
      ],
    },
    'GET /payments/:correlationId': {
      id: 'getPayment',
      tag: 'Payments',
      summary: 'The status of a payment',
      description: 'Where the payment is, and why it waits. A store that is down gives 503, never 404.',
      parameters: [{ name: 'correlationId', in: 'path', required: true, schema: { type: 'string', format: 'uuid' } }],
      responses: { 200: json('The payment is known.', 'PaymentStatus') },
      errors: ['invalid_request', 'not_found', 'busy', 'queue_unavailable', 'ledger_unavailable', 'internal_error'],
    },
    'GET /payments-summary': {
      id: 'getSummary',
      tag: 'Payments',
      summary: 'What was paid, by gateway',
      description: [
        'Counts the payments whose `requestedAt` is between two instants, both included.',
        'While PostgreSQL is down the totals are 0, and `X-Summary-Source` is `stub`.',
      ].join('\n\n'),
      parameters: [bound('from', 'start', config), bound('to', 'end', config)],
      responses: {
        200: json('The totals.', 'Summary', {
          'X-Summary-Source': {
            description: '`stub`: PostgreSQL did not respond, and the totals mean nothing.',
            required: true,
            schema: { type: 'string', enum: ['ledger', 'stub'] },
          },
          'X-Summary-Archived-Until': {
            description:
              'The range begins in archived time: this is the `requestedAt` of the latest archived payment. The totals include archived payments.',
            schema: { type: 'string', format: 'date-time' },
          },
        }),
      },
      errors: ['invalid_request', 'busy', 'internal_error'],
    },
    'GET /health': {
      id: 'getHealth',
      tag: 'Health',
      summary: 'Is the relay well?',
      description: 'The size of the queue, and what keeps payments from being accepted or paid.',
      responses: {
        200: json('Redis responds. With `degraded`, `problems` says what is wrong.', 'Health'),
        503: json('Redis gave no usable reply.', 'HealthUnavailable'),
      },
      errors: ['internal_error'],
    },
    'GET /health/live': {
      id: 'getLiveness',
      tag: 'Health',
      summary: 'Does this process respond?',
      responses: { 200: json('It responds.', 'Live') },
      errors: [],
    },
    'GET /health/ready': {
      id: 'getReadiness',
      tag: 'Health',
      summary: 'Can this node accept payments?',
      description:
        'For load balancers. An outage of PostgreSQL alone does not make a node unready: payments wait in Redis.',
      responses: {
        200: json('It can.', 'Ready'),
        503: json('It cannot. `checks` says why.', 'Ready'),
      },
      errors: [],
    },
    'GET /metrics': {
      id: 'getMetrics',
      tag: 'Operator',
      summary: 'Metrics of this process for Prometheus',
      description: 'nginx of the compose stacks does not pass it on. A worker serves its own at `WORKER_PORT`.',
      responses: {
        200: {
          description: 'The text format of Prometheus.',
          content: { 'text/plain': { schema: { type: 'string' } } },
        },
      },
      errors: [],
    },
    'POST /purge-payments': {
      id: 'purgePayments',
      tag: 'Operator',
      summary: 'Empty queue, ledger and dead letters',
      description:
        'Exists only with `ALLOW_PURGE=true`. After a 503 all is as it was, unless a server failed in the middle of the ' +
        'purge. Then purge again.',
      responses: { 200: json('All is empty.', 'Purged') },
      errors: ['queue_unavailable', 'ledger_unavailable', 'internal_error'],
    },
    'GET /admin/queues': {
      id: 'getDashboard',
      tag: 'Operator',
      summary: 'bull-board: its pages and what they read',
      description: 'Also every path below. See [bull-board](https://github.com/felixmosh/bull-board).',
      responses: {
        200: { description: 'A page, a file of it, or JSON.', content: { '*/*': {} } },
        404: bullBoard('There is no such page, queue or job.'),
      },
      errors: ['queue_unavailable', 'internal_error'],
    },
    'PUT /admin/queues': {
      id: 'changeQueue',
      tag: 'Operator',
      summary: 'bull-board: retry, promote, pause and resume',
      description:
        'At paths below, as the pages send them. A change that could lose a payment gets 405. A retry enqueues the payload ' +
        'that PostgreSQL has kept.',
      responses: {
        200: { description: 'Done. The body says how much.', content: { '*/*': {} } },
        204: { description: 'Done.' },
        404: bullBoard('There is no such queue or job.'),
        409: json('The change does not fit the present state of the payment.', 'DashboardConflict'),
      },
      errors: ['method_not_allowed', 'queue_full', 'queue_unavailable', 'ledger_unavailable', 'internal_error'],
    },
    'GET /admin/api/actions': {
      id: 'listActions',
      tag: 'Operator',
      summary: 'The trail: what operators did',
      description: 'The newest first. The next page is `before` the id of the last one.',
      parameters: [
        {
          name: 'before',
          in: 'query',
          description: 'The id of an action. Without it, the page starts with the newest.',
          schema: { type: 'string' },
        },
        {
          name: 'limit',
          in: 'query',
          description: 'How many at most.',
          schema: { type: 'integer', minimum: 1, maximum: 200, default: 50 },
        },
      ],
      responses: { 200: json('A page; empty after the oldest.', 'OperatorActions') },
      errors: ['invalid_request', 'ledger_unavailable', 'internal_error'],
    },
    ...STEERING_OPERATIONS,
    ...DEAD_LETTER_OPERATIONS,
    ...SETTLE_OPERATIONS,
    ...ADMIN_OPERATIONS,
    'GET /openapi.json': {
      id: 'getOpenApi',
      tag: 'Documents',
      summary: 'This document',
      responses: {
        200: {
          description: 'OpenAPI 3.1.',
          headers: { ETag },
          content: { 'application/json': { schema: { type: 'object', additionalProperties: true } } },
        },
        304: { description: 'It is as the client has it, by `If-None-Match`.', headers: { ETag } },
      },
      errors: [],
    },
    'GET /docs': {
      id: 'getDocs',
      tag: 'Documents',
      summary: 'This document as a page',
      description: 'Also the files of the page, at paths below. They load nothing from another host.',
      responses: {
        200: {
          description: 'The page, or a file of it.',
          content: { 'text/html': TEXT, 'text/css': TEXT, 'text/javascript': TEXT },
        },
      },
      errors: ['not_found'],
    },
  };
}

const TEXT = { schema: { type: 'string' } };

const ETag = { description: 'Changes with the document.', required: true, schema: { type: 'string' } };

function bound(name: 'from' | 'to', end: 'start' | 'end', { summaryRange }: Config['http']): Schema {
  return {
    name,
    in: 'query',
    required: summaryRange === 'required',
    description: `The ${end} of the range: an ISO 8601 date (its 00:00) or date-time. Without an offset it is UTC.`,
    schema: { type: 'string' },
    examples: { date: { value: '2025-07-15' }, time: { value: '2025-07-15T12:00:00.000Z' } },
  };
}

/** A response of bull-board's own, or ours with the code `not_found`. */
function bullBoard(description: string): Schema {
  return { description, content: { '*/*': {} } };
}
