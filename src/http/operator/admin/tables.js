import { count, duration, el, megabytes, milliseconds, pairs, rate, table, time } from './dom.js';

const GATEWAYS = ['primary', 'fallback'];

const HOPS = {
  accept: 'accept: the request of a client',
  wait: 'wait: in the queue',
  send: 'send: an attempt at a gateway',
  record: 'record: into the ledger',
};

export function showNow({ rates, queue }) {
  if (rates === undefined) return [el('h2', {}, 'Now'), unknown('Redis does not respond')];
  const { accepted, notAccepted, paid } = rates;
  return [
    el('h2', {}, 'Now ', el('small', { class: 'quiet' }, '(mean of the last 10 s, all processes)')),
    pairs('figures', [
      ['accepted', rate(accepted)],
      ['not accepted', rate(notAccepted)],
      ['paid at the primary', rate(paid.primary)],
      ['paid at the fallback', rate(paid.fallback)],
      ['in the queue', count(queue.size)],
      ['age of the oldest', queue.oldestSeconds > 0 ? duration(queue.oldestSeconds) : '–'],
    ]),
  ];
}

/** @param buttons the buttons for pause and resume, or nothing */
export function showQueue({ queue }, buttons) {
  const title = el('h2', {}, 'Queue');
  if (queue === undefined) return [title, unknown('Redis does not respond')];
  const { size, capacity, waiting, delayed, inFlight, isPaused, oldestSeconds } = queue;
  return [
    title,
    el('progress', { max: capacity, value: size, 'aria-label': 'Size of the queue against its cap' }),
    pairs('fields', [
      ['size', `${count(size)} of ${count(capacity)} (${percent(size, capacity)})`],
      ['waiting', count(waiting)],
      ['for later', count(delayed)],
      ['in flight', count(inFlight)],
      ['oldest', oldestSeconds > 0 ? duration(oldestSeconds) : '–'],
      ['workers', isPaused ? el('span', { class: 'bad' }, 'paused: they take no payments') : 'may take payments'],
    ]),
    buttons,
  ];
}

/** @param buttons makes the buttons of a gateway, or nothing */
export function showGateways({ gateways, processes }, buttons) {
  const title = el('h2', {}, 'Gateways');
  if (gateways === undefined) return [title, unknown('Redis does not respond')];
  const workers = processes.filter(({ worker }) => worker !== undefined).length;
  return [
    title,
    el(
      'div',
      { class: 'columns' },
      GATEWAYS.map((name) => {
        const { down, waiting, underWay, steered, followed, unresolved } = gateways[name];
        return el(
          'div',
          {},
          el('h3', {}, name),
          pairs('fields', [
            ['circuit', circuit(down, workers)],
            ['operators', steering(steered, followed, workers)],
            ['waiting for it', count(waiting)],
            ['under way', count(underWay)],
            ['unresolved', unresolvedText(unresolved)],
          ]),
          buttons(name, steered.state),
        );
      }),
    ),
  ];
}

function circuit(down, workers) {
  if (workers === 0) return el('span', { class: 'quiet' }, 'unknown: no worker');
  if (down === undefined) return el('span', { class: 'good' }, 'closed: it accepts payments');
  const where = down.workers < workers ? ` in ${down.workers} of ${workers} workers` : '';
  return el('span', { class: 'bad' }, `open${where} since ${time(down.since)}: ${down.detail}`);
}

function steering({ state, by }, followed, workers) {
  const who = by ? ` by ${by.who} at ${time(by.at)}${by.reason ? `: ${by.reason}` : ''}` : '';
  const late = workers - followed[state];
  const following = late > 0 ? ` (${late} of ${workers} workers do not follow yet)` : '';
  if (state === 'open') return `not stopped${following}`;
  return el('span', { class: 'bad' }, `${state}${who}${following}`);
}

function unresolvedText({ count: payments, oldestSeconds }) {
  if (payments === 0) return 'none';
  const text = `${count(payments)} may have been paid; the oldest since ${duration(oldestSeconds)}`;
  return oldestSeconds > 600 ? el('span', { class: 'bad' }, text) : text;
}

export function showHops({ hops }) {
  const title = el('h2', {}, 'Latency ', el('small', { class: 'quiet' }, '(last 10 s)'));
  if (hops === undefined) return [title, unknown('Redis does not respond')];
  const rows = Object.entries(HOPS).map(([hop, name]) => {
    const { count: measured, p50Ms, p99Ms } = hops[hop];
    return [name, milliseconds(p50Ms), milliseconds(p99Ms), count(measured)];
  });
  return [title, table(['hop', '#p50', '#p99', '#measured'], rows)];
}

export function showProcesses({ processes }) {
  const title = el('h2', {}, 'Workers and API nodes');
  if (processes === undefined) return [title, unknown('Redis does not respond')];
  const rows = processes.map(({ role, host, pid, version, startedAt, rates, worker }) => [
    role === 'all' ? 'API and worker' : role,
    host,
    pid,
    version,
    time(startedAt),
    rate(rates.accepted),
    worker ? rate(rates.paid.primary + rates.paid.fallback) : '',
    worker ? `${count(worker.inFlight)} of ${count(worker.concurrency)}` : '',
    fault(worker),
  ]);
  const columns = ['role', 'host', '#pid', 'version', 'since', '#accepted', '#paid', '#in flight', 'fault'];
  return [title, rows.length > 0 ? table(columns, rows) : el('p', {}, 'No process has reported within the last 5 s.')];
}

function fault({ fault: redis, ledgerDown } = {}) {
  const text = [redis, ledgerDown]
    .filter(Boolean)
    .map(({ since, detail }) => `since ${time(since)}: ${detail}`)
    .join('; ');
  return text === '' ? 'none' : el('span', { class: 'bad' }, text);
}

const REASONS = {
  invalid_payment: 'invalid_payment: what was posted is no payment',
  rejected: 'rejected: its gateway will never make it',
  payload_missing: 'payload_missing: Redis has lost its data',
};

export function showDeadLetterCount({ deadLetters }) {
  if (deadLetters === undefined) return unknown('PostgreSQL does not respond');
  const open = Object.entries(deadLetters).filter(([, letters]) => letters > 0);
  if (open.length === 0) return el('p', {}, 'None is open.');
  return pairs(
    'fields',
    open.map(([reason, letters]) => [REASONS[reason] ?? reason, count(letters)]),
  );
}

export function showStores({ lastHour, reconciliation, redisMemory, queue }) {
  return [
    el('h2', {}, 'Ledger and Redis'),
    pairs('fields', [
      [
        'PostgreSQL',
        lastHour?.paid ? el('span', { class: 'good' }, 'responds') : el('span', { class: 'bad' }, 'does not respond'),
      ],
      ['reconcile', lastHour?.paid && reconciled(reconciliation)],
      ['Redis', queue ? el('span', { class: 'good' }, 'responds') : el('span', { class: 'bad' }, 'does not respond')],
      ['its memory', redisMemory ? memory(redisMemory) : queue && 'no limit, or not readable'],
    ]),
  ];
}

function memory({ usedBytes, maxBytes }) {
  const text = `${megabytes(usedBytes)} of ${megabytes(maxBytes)} (${percent(usedBytes, maxBytes)}); from 90 % on nothing is accepted`;
  return usedBytes >= 0.9 * maxBytes ? el('span', { class: 'bad' }, text) : text;
}

function reconciled(last) {
  if (last === undefined) return 'it was never run: npm run reconcile';
  const differing = GATEWAYS.flatMap((name) => {
    const { payments, amountCents } = last.differences[name];
    if (payments === 0 && amountCents === 0) return [];
    return [`the ${name} has ${payments} payments and ${amountCents / 100} more on record than the ledger`];
  });
  const at = `${duration((Date.now() - Date.parse(last.endedAt)) / 1_000 - 0.5)} ago`.replace(/^-.*/, 'just now');
  return differing.length === 0 ? `equal, ${at}` : el('span', { class: 'bad' }, `${differing.join('; ')}, ${at}`);
}

export function unknown(why) {
  return el('p', { class: 'bad' }, `Unknown: ${why}.`);
}

function percent(part, whole) {
  return `${((part / whole) * 100).toLocaleString('en', { maximumFractionDigits: 1 })} %`;
}
