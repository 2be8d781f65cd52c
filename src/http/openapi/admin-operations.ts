import { json, type Operation } from './operation.ts';

const TEXT = { schema: { type: 'string' } };

const ETag = { description: "Changes with the file's content.", required: true, schema: { type: 'string' } };

/** The operator's page and what it reads. They exist with DASHBOARD_USER and DASHBOARD_PASSWORD. */
export const ADMIN_OPERATIONS: Readonly<Record<string, Operation>> = {
  'GET /admin': {
    id: 'getAdmin',
    tag: 'Operator',
    summary: "The operator's page",
    description: 'Also its files, at paths below. It loads nothing from another host.',
    responses: {
      200: {
        description: 'The page, or a file of it.',
        headers: { ETag },
        content: { 'text/html': TEXT, 'text/css': TEXT, 'text/javascript': TEXT, 'text/markdown': TEXT },
      },
      304: { description: 'It is as the client has it, by `If-None-Match`.', headers: { ETag } },
      308: {
        description: 'The path of the page has no slash at its end.',
        headers: { Location: { required: true, schema: { type: 'string', const: '/admin' } } },
        content: { '*/*': {} },
      },
    },
    errors: ['not_found'],
  },
  'GET /admin/api/state': {
    id: 'getRelayState',
    tag: 'Operator',
    summary: "Everything that the operator's page shows",
    description:
      'At most one reading a second, which all callers share, and within a second. What a store that is down would tell is ' +
      'missing, and `problems` says why: it is a 200 all the same.',
    responses: { 200: json('What could be read.', 'RelayState') },
    errors: ['internal_error'],
  },
  'GET /admin/api/payments/:correlationId': {
    id: 'getPaymentAsOperator',
    tag: 'Operator',
    summary: 'The status of a payment, by the login',
    description: 'As `GET /payments/{correlationId}`, for pages, which cannot send `STATUS_TOKEN`.',
    parameters: [{ name: 'correlationId', in: 'path', required: true, schema: { type: 'string', format: 'uuid' } }],
    responses: { 200: json('The payment is known.', 'PaymentStatus') },
    errors: ['invalid_request', 'not_found', 'busy', 'queue_unavailable', 'ledger_unavailable', 'internal_error'],
  },
};
