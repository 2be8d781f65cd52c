import { DEAD_LETTER_CODES } from '../../ledger/dead-letters.ts';
import { MAX_IDS } from '../../operations/dead-letter-actions.ts';
import { PER_SECOND } from '../../operations/dead-letter-query.ts';
import { SKIP_REASONS } from '../../operations/dead-letter-verdicts.ts';
import type { Schema } from './operation.ts';

const count = (description: string): Schema => ({ type: 'integer', minimum: 0, description });
const time = (description: string): Schema => ({ type: 'string', format: 'date-time', description });
const named = (schema: string): Schema => ({ $ref: `#/components/schemas/${schema}` });

const ANY_OBJECT: Schema = { type: 'object', additionalProperties: true };

const REASON: Schema = { type: 'string', enum: DEAD_LETTER_CODES };

const MATCHING: Schema = {
  type: 'object',
  description: 'Open dead letters that fit, by reason.',
  required: DEAD_LETTER_CODES,
  properties: Object.fromEntries(DEAD_LETTER_CODES.map((code) => [code, { type: 'integer', minimum: 0 }])),
};

const IS_COMPLETE: Schema = {
  type: 'boolean',
  description: 'False: more may fit. A count ends at 100,000 of one reason and gateway, or when it takes too long.',
};

const SKIPPED: Schema = {
  type: 'object',
  description: 'Letters that stay as they are, by reason.',
  properties: Object.fromEntries(
    Object.entries(SKIP_REASONS).map(([why, description]) => [why, { type: 'integer', minimum: 1, description }]),
  ),
};

/** What the operator's API takes and responds with, for `components.schemas`. */
export const OPERATOR_SCHEMAS: Readonly<Record<string, Schema>> = {
  DeadLetterRequest: {
    type: 'object',
    description: 'Which dead letters, and how. Exactly one of `filter`, `ids` and `all`.',
    properties: {
      filter: {
        type: 'object',
        description: 'As the parameters of the list. An empty one is an error, because it would mean every letter.',
        properties: {
          reason: REASON,
          gateway: { type: 'string', enum: ['primary', 'fallback'] },
          from: { type: 'string' },
          to: { type: 'string' },
        },
      },
      ids: { type: 'array', minItems: 1, maxItems: MAX_IDS, items: { type: 'string' }, description: '`id` of a page.' },
      all: { type: 'boolean', default: false, description: 'Every open dead letter.' },
      dryRun: { type: 'boolean', default: false, description: 'Say what it would do, and do nothing.' },
      perSecond: { type: 'integer', minimum: 1, maximum: PER_SECOND.max, default: PER_SECOND.default },
      reason: {
        type: 'string',
        maxLength: 500,
        description: 'Why, for the trail. Only a dry run needs none.',
      },
    },
  },
  DeadLetterPage: {
    type: 'object',
    required: ['matching', 'isComplete', 'deadLetters'],
    properties: {
      matching: MATCHING,
      isComplete: IS_COMPLETE,
      deadLetters: { type: 'array', items: named('DeadLetter') },
      next: { type: 'string', description: '`after` of the next page. Missing on the last one.' },
    },
  },
  DeadLetter: {
    type: 'object',
    required: ['id', 'jobId', 'reason', 'detail', 'attempts', 'acceptedAt', 'diedAt'],
    properties: {
      id: { type: 'string' },
      jobId: { type: 'string' },
      correlationId: { type: 'string', format: 'uuid', description: 'Missing when the payload has no valid one.' },
      amount: { type: 'string', description: 'As it was posted.' },
      reason: REASON,
      detail: { type: 'string', description: 'The same for people.' },
      gateway: { type: 'string', enum: ['primary', 'fallback'], description: 'The only gateway that may get this id.' },
      attempts: count('Runs that a worker has started.'),
      acceptedAt: time('When it was accepted.'),
      diedAt: time('When it became a dead letter.'),
      payload: { type: 'string', description: 'The beginning of the JSON text that was posted.' },
      payloadBytes: count('The size of the whole payload.'),
    },
  },
  DeadLetterDryRun: {
    type: 'object',
    required: ['matching', 'isComplete', 'examined', 'eligible', 'skipped', 'summary'],
    properties: {
      matching: MATCHING,
      isComplete: IS_COMPLETE,
      examined: count('Letters that were looked at: the first 10,000, or as many as 3 s allow.'),
      eligible: count('Of these, the letters that would be changed.'),
      skipped: SKIPPED,
      summary: { type: 'string', description: 'The same as a sentence for people.' },
    },
  },
  OperatorAction: {
    type: 'object',
    description: 'A change of state that an operator asked for.',
    required: ['id', 'at', 'who', 'action', 'target', 'state'],
    properties: {
      id: { type: 'string' },
      at: time('When it was asked for.'),
      who: {
        type: 'string',
        description: 'The user of the login, `user@host` of a command, or the address of a request without a login.',
      },
      action: { type: 'string', description: 'The thing and the verb.', examples: ['queue.pause'] },
      target: { ...ANY_OBJECT, description: 'On what.' },
      reason: { type: 'string', description: "In the operator's words." },
      state: {
        type: 'string',
        enum: ['started', 'running', 'done', 'refused', 'failed', 'stopped'],
        description: [
          '- `started`: nothing is known of its end. It is under way, or its process ended: then nobody knows whether it was done.',
          '- `running`: it takes long, and a worker carries it out.',
          '- `done`: it was carried out.',
          '- `refused`: it was not, because a condition did not hold.',
          '- `failed`: it met an error, and may have been done in part.',
          '- `stopped`: an operator stopped it while it ran.',
        ].join('\n'),
      },
      outcome: { ...ANY_OBJECT, description: 'What was known before, and what came of it.' },
      endedAt: time('When it ended.'),
      perSecond: { type: 'integer', minimum: 1, description: 'The pace of one that takes long.' },
      progress: {
        ...ANY_OBJECT,
        description: 'How far one that takes long is: `done`, `skipped` and why, `waiting` and why.',
      },
      remaining: count('Letters that one that takes long has not reached. Missing when there were too many to count.'),
      rate: { type: 'number', minimum: 0, description: 'Letters a second since it began, in the mean.' },
    },
  },
};
