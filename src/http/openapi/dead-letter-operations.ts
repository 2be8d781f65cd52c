import { DEAD_LETTER_CODES } from '../../ledger/dead-letters.ts';
import { json, type Operation, type Schema } from './operation.ts';

const ACTION_ID: Schema = { name: 'id', in: 'path', required: true, schema: { type: 'string' } };

function diedAt(name: 'from' | 'to', end: string): Schema {
  const description = `They died at this time ${end}: an ISO 8601 date (its 00:00) or date-time. Without an offset it is UTC.`;
  return { name, in: 'query', description, schema: { type: 'string' } };
}

function changeDeadLetters(id: string, { summary, description }: { summary: string; description: string }): Operation {
  return {
    id,
    tag: 'Operator',
    summary,
    description: [
      description,
      'With `dryRun` nothing changes. Otherwise a worker does it, `perSecond` letters a second, and `Location` says where to ' +
        'see how far it is. Letters that die after the start are left alone.',
    ].join('\n\n'),
    requestBody: {
      required: true,
      content: { 'application/json': { schema: { $ref: '#/components/schemas/DeadLetterRequest' } } },
    },
    responses: {
      200: json('What it would do now.', 'DeadLetterDryRun'),
      202: json('A worker does it.', 'OperatorAction', {
        Location: { description: 'The action.', required: true, schema: { type: 'string' } },
      }),
    },
    errors: [
      'invalid_json',
      'invalid_request',
      'payload_too_large',
      'queue_unavailable',
      'ledger_unavailable',
      'internal_error',
    ],
  };
}

/** What operators do with dead letters, and with the actions that this starts. */
export const DEAD_LETTER_OPERATIONS: Readonly<Record<string, Operation>> = {
  'GET /admin/api/dead-letters': {
    id: 'listDeadLetters',
    tag: 'Operator',
    summary: 'Open dead letters by pages, and how many there are',
    description: 'The newest first. All parameters of the filter must fit.',
    parameters: [
      { name: 'reason', in: 'query', description: 'Why they died.', schema: { enum: DEAD_LETTER_CODES } },
      {
        name: 'gateway',
        in: 'query',
        description: 'The gateway to which the letter is tied.',
        schema: { enum: ['primary', 'fallback'] },
      },
      diedAt('from', 'or later'),
      diedAt('to', 'or before'),
      { name: 'after', in: 'query', description: '`next` of the page before.', schema: { type: 'string' } },
      {
        name: 'limit',
        in: 'query',
        description: 'How many at most.',
        schema: { type: 'integer', minimum: 1, maximum: 200, default: 50 },
      },
    ],
    responses: { 200: json('A page.', 'DeadLetterPage') },
    errors: ['invalid_request', 'ledger_unavailable', 'internal_error'],
  },
  'POST /admin/api/dead-letters/retry': changeDeadLetters('retryDeadLetters', {
    summary: 'Retry dead letters',
    description:
      'Enqueues each again, with the payload as it was posted. What would die again, or is in the queue, is skipped.',
  }),
  'POST /admin/api/dead-letters/discard': changeDeadLetters('discardDeadLetters', {
    summary: 'Discard dead letters',
    description: 'They will not be paid, unless a client posts their ids again. What is in the queue is skipped.',
  }),
  'GET /admin/api/actions/:id': {
    id: 'getAction',
    tag: 'Operator',
    summary: 'An action of an operator, and how far it is',
    parameters: [ACTION_ID],
    responses: { 200: json('The action.', 'OperatorAction') },
    errors: ['invalid_request', 'not_found', 'ledger_unavailable', 'internal_error'],
  },
  'DELETE /admin/api/actions/:id': {
    id: 'stopAction',
    tag: 'Operator',
    summary: 'Stop an action that runs',
    description:
      'Its worker ends within a second. What is done stays done. The stop has a row of its own in the trail.',
    parameters: [
      ACTION_ID,
      { name: 'reason', in: 'query', description: 'Why, for the trail.', schema: { type: 'string', maxLength: 500 } },
    ],
    responses: { 200: json('It is stopped.', 'OperatorAction') },
    errors: ['invalid_request', 'not_found', 'conflict', 'ledger_unavailable', 'internal_error'],
  },
};
