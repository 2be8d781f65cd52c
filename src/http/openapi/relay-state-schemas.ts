import { DEAD_LETTER_CODES } from '../../ledger/dead-letters.ts';
import { MINUTES } from '../../operations/relay-state.ts';
import { HOPS } from '../../telemetry/labels.ts';
import type { Schema } from './operation.ts';

const count = (description: string): Schema => ({ type: 'integer', minimum: 0, description });
const number = (description: string): Schema => ({ type: 'number', minimum: 0, description });
const text = (description: string): Schema => ({ type: 'string', description });
const time = (description: string): Schema => ({ type: 'string', format: 'date-time', description });
const named = (schema: string): Schema => ({ $ref: `#/components/schemas/${schema}` });

/** An object that always has all of these fields, but for those that are named optional. */
function object(description: string, properties: Readonly<Record<string, Schema>>, optional: string[] = []): Schema {
  return {
    type: 'object',
    description,
    required: Object.keys(properties).filter((name) => !optional.includes(name)),
    properties,
  };
}

const ofEachGateway = (description: string, schema: Schema): Schema =>
  object(description, { primary: schema, fallback: schema });

const eachMinute = (description: string): Schema => ({
  type: 'array',
  items: { type: 'integer', minimum: 0 },
  minItems: MINUTES,
  maxItems: MINUTES,
  description,
});

const SINCE = {
  since: time('Since when it is so.'),
  code: text('A code for it.'),
  detail: text('The cause, as a sentence for people.'),
};

/** The schemas of `GET /admin/api/state`. */
export const RELAY_STATE_SCHEMAS: Readonly<Record<string, Schema>> = {
  RelayState: object(
    'What could be read of the relay. A part is missing while its store does not respond.',
    {
      at: time("When it was read, by the node's clock."),
      you: object('Who has asked.', {
        user: text('The user of the login.'),
        mayAct: { type: 'boolean', description: 'False for the user who may only look.' },
      }),
      problems: { type: 'array', items: named('Problem'), description: 'The worst first.' },
      rates: named('Rates'),
      lastHour: named('LastHour'),
      queue: object('The queue.', {
        size: count('Payments that wait, now or for a later time. This is what the cap counts.'),
        capacity: count('The cap.'),
        waiting: count('Payments that may be taken now.'),
        delayed: count('Payments that wait for a later time.'),
        inFlight: count('Payments that workers have taken.'),
        isPaused: { type: 'boolean', description: 'Workers take no payments, or with shards none of one at least.' },
        oldestSeconds: number('The age of the oldest payment.'),
      }),
      hops: object(
        'How long each section of the path took in the last ten seconds.',
        Object.fromEntries(HOPS.map((hop) => [hop, named('HopTimes')])),
      ),
      gateways: ofEachGateway('The gateways, as the workers see them.', named('GatewayState')),
      processes: { type: 'array', items: named('Process'), description: 'Those that have reported in the last 5 s.' },
      redisMemory: object('Missing also when Redis has no limit.', {
        usedBytes: count('In use.'),
        maxBytes: count('`maxmemory`'),
      }),
      deadLetters: object(
        'Open dead letters by reason, at most 10 s old.',
        Object.fromEntries(DEAD_LETTER_CODES.map((code) => [code, count('Open ones.')])),
      ),
      reconciliation: object('The last complete run of `npm run reconcile`. Missing: there was none.', {
        endedAt: time('When it ended.'),
        differences: ofEachGateway(
          'What the gateway had on record, minus what the ledger had.',
          object('Below zero: the ledger had more.', {
            payments: { type: 'integer' },
            amountCents: { type: 'integer' },
          }),
        ),
      }),
      actions: {
        type: 'array',
        description: 'What operators did last. As `GET /admin/api/actions` has them.',
        items: { type: 'object', additionalProperties: true },
      },
    },
    [
      ...['rates', 'lastHour', 'queue', 'hops', 'gateways', 'processes', 'redisMemory', 'deadLetters'],
      ...['reconciliation', 'actions'],
    ],
  ),
  Rates: object('Payments per second, in the mean over the last ten seconds.', {
    accepted: number('Accepted.'),
    notAccepted: number('Not accepted.'),
    paid: ofEachGateway('Paid.', number('Payments per second.')),
  }),
  LastHour: object(
    `The last ${MINUTES} minutes. The last one is the present minute, which is not complete.`,
    {
      from: time('The beginning of the first minute.'),
      accepted: eachMinute('Accepted by all nodes. Missing while Redis does not respond.'),
      paid: ofEachGateway(
        'By `requestedAt`. Missing while PostgreSQL does not respond.',
        object('One gateway.', {
          payments: eachMinute('Payments.'),
          amountCents: eachMinute('In cents.'),
        }),
      ),
    },
    ['accepted', 'paid'],
  ),
  HopTimes: object(
    'Without a measurement there are no times.',
    {
      count: count('Measurements.'),
      p50Ms: number('Half of them took at most as long.'),
      p99Ms: number('99 % of them took at most as long.'),
    },
    ['p50Ms', 'p99Ms'],
  ),
  GatewayState: object(
    'One gateway.',
    {
      down: object('Why it gets no new payments. Missing: it gets them.', {
        ...SINCE,
        workers: count('In how many workers.'),
      }),
      waiting: count('Payments in workers that wait for it.'),
      underWay: count('Attempts and look-ups under way.'),
      steered: object(
        'What operators have decided.',
        {
          state: { type: 'string', enum: ['open', 'draining', 'stopped'] },
          by: object('Missing while it is open.', { who: text('The user.'), reason: text('Why.'), at: time('When.') }, [
            'reason',
          ]),
        },
        ['by'],
      ),
      followed: object('In how many workers each state holds.', {
        open: count('Workers.'),
        draining: count('Workers.'),
        stopped: count('Workers.'),
      }),
      unresolved: object('Payments of which an attempt may have been paid.', {
        count: count('Payments.'),
        oldestSeconds: number('Since when the oldest is one.'),
      }),
    },
    ['down'],
  ),
  Process: object(
    'A process of the relay, as it reports itself once a second.',
    {
      id: text('Another one after each start.'),
      role: { type: 'string', enum: ['api', 'worker', 'all'] },
      host: text('The name of its host.'),
      pid: { type: 'integer' },
      version: text('The version of Payrelay.'),
      startedAt: text('When it started.'),
      rates: named('Rates'),
      worker: object(
        'Of a process that pays.',
        {
          concurrency: count('Payments that it may have in flight.'),
          inFlight: count('Payments that it has in flight.'),
          fault: object('Why it takes no payments.', SINCE),
          ledgerDown: object('Why it cannot use PostgreSQL.', SINCE),
        },
        ['fault', 'ledgerDown'],
      ),
    },
    ['worker'],
  ),
};
