import { MAX_REASON_LENGTH } from '../operator/admin-api/reason-body.ts';
import { json, type Operation, type Schema } from './operation.ts';

/** What operators do with the queue and the gateways. */
export const STEERING_OPERATIONS: Readonly<Record<string, Operation>> = {
  'POST /admin/api/pause': {
    id: 'pauseQueue',
    tag: 'Operator',
    summary: 'Pause the queue',
    description:
      "Workers take no payments from now on. What they have taken is paid. It is the same pause as bull-board's. It works while " +
      'PostgreSQL is down.',
    ...reasonBody(),
    responses: { 200: json('The queue is paused.', 'PausedQueue') },
    errors: ['invalid_json', 'invalid_request', 'queue_unavailable', 'internal_error'],
  },
  'POST /admin/api/resume': {
    id: 'resumeQueue',
    tag: 'Operator',
    summary: 'End a pause of the queue',
    ...reasonBody(),
    responses: { 200: json('The queue is not paused.', 'PausedQueue') },
    errors: ['invalid_json', 'invalid_request', 'queue_unavailable', 'ledger_unavailable', 'internal_error'],
  },
  'GET /admin/api/gateways': {
    id: 'getGateways',
    tag: 'Operator',
    summary: 'How operators have steered the gateways',
    description: 'And how far the workers follow, by their last heartbeats.',
    responses: { 200: json('Both gateways.', 'SteeredGateways') },
    errors: ['queue_unavailable', 'internal_error'],
  },
  'POST /admin/api/gateways/:gateway/stop': {
    id: 'stopGateway',
    tag: 'Operator',
    summary: 'Send nothing to a gateway',
    description:
      'Every worker follows within a second. What was under way ends as usual. Payments that only this gateway may get wait in ' +
      'the queue. It works while PostgreSQL is down.',
    ...ofGateway(),
    errors: ['invalid_json', 'invalid_request', 'not_found', 'queue_unavailable', 'internal_error'],
  },
  'POST /admin/api/gateways/:gateway/drain': {
    id: 'drainGateway',
    tag: 'Operator',
    summary: 'Send a gateway only what no other may get',
    description: 'New payments are treated as while it is stopped. `isDrained` says when no other payment is left.',
    ...ofGateway(),
    errors: [
      'invalid_json',
      'invalid_request',
      'not_found',
      'queue_unavailable',
      'ledger_unavailable',
      'internal_error',
    ],
  },
  'POST /admin/api/gateways/:gateway/resume': {
    id: 'resumeGateway',
    tag: 'Operator',
    summary: 'Send payments to a gateway again',
    description: 'Its circuit is then as the responses of the gateway have left it.',
    ...ofGateway(),
    errors: [
      'invalid_json',
      'invalid_request',
      'not_found',
      'queue_unavailable',
      'ledger_unavailable',
      'internal_error',
    ],
  },
};

function ofGateway(): Pick<Operation, 'parameters' | 'requestBody' | 'responses'> {
  const schema = { type: 'string', enum: ['primary', 'fallback'] };
  return {
    parameters: [{ name: 'gateway', in: 'path', required: true, schema }],
    ...reasonBody(),
    responses: { 200: json('The gateway afterwards. Its workers may not have reported yet.', 'SteeredGateway') },
  };
}

function reasonBody(): { requestBody: Schema } {
  const reason = { type: 'string', minLength: 1, maxLength: MAX_REASON_LENGTH, description: 'Why, for everybody.' };
  const schema = { type: 'object', required: ['reason'], properties: { reason } };
  return { requestBody: { required: true, content: { 'application/json': { schema } } } };
}
