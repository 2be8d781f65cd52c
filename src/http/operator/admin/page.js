import { showActions } from './actions.js';
import { confirmAct, request } from './acts.js';
import { startDeadLetters } from './dead-letters.js';
import { count, el, money, show, time } from './dom.js';
import { startSearch } from './payment.js';
import { legend, plot } from './plot.js';
import { showProblems } from './problems.js';
import {
  showDeadLetterCount,
  showGateways,
  showHops,
  showNow,
  showProcesses,
  showQueue,
  showStores,
  unknown,
} from './tables.js';

const REFRESH_MS = 2_000;

let last;
let failingSince;
let isReading = false;

/** One request for everything. While the node does not respond, what it said last stays on the page, grey. */
async function refresh() {
  if (isReading || document.hidden) return;
  isReading = true;
  try {
    last = await request('GET', '/admin/api/state');
    failingSince = undefined;
  } catch (error) {
    failingSince ??= new Date();
    const before = last ? `Everything below is of ${time(last.at)}.` : '';
    say(`This node has not responded since ${time(failingSince)}: ${error.message}. ${before}`);
  }
  isReading = false;
  document.body.classList.toggle('stale', failingSince !== undefined);
  if (failingSince === undefined) render(last);
}

const refreshNow = () => void refresh();

function say(text) {
  const status = document.getElementById('status');
  if (status.textContent !== text) status.textContent = text;
}

function render(state) {
  const { user, mayAct } = state.you;
  say(`As of ${time(state.at)}. You are ${user}${mayAct ? '' : ', who may look and not act'}.`);
  const { problems, rates, queue, gateways, processes, hops, deadLetters, lastHour } = state;
  show('problems', problems, showProblems);
  document.title = problems.length > 0 ? `(${problems.length}) Payrelay` : 'Payrelay';
  show('now', { rates, queue }, showNow);
  show('payments-plot', lastHour ?? null, paymentsPlot);
  show('money-plot', lastHour?.paid ? lastHour : null, moneyPlot);
  show('queue', { queue, mayAct }, (data) => showQueue(data, mayAct && pauseButtons(data.queue)));
  show(
    'gateways',
    { gateways, processes: processes?.map(({ worker }) => ({ worker: worker && {} })), mayAct },
    (data) => showGateways(data, (name, steered) => mayAct && gatewayButtons(name, steered)),
  );
  show('hops', { hops }, showHops);
  show('processes', { processes }, showProcesses);
  show('dead-letters-count', { deadLetters }, showDeadLetterCount);
  show(
    'stores',
    { ...state, problems: [], rates: 0, hops: 0, actions: 0, at: 0, lastHour: { paid: lastHour?.paid && {} } },
    () => showStores(state),
  );
  show('actions', { actions: state.actions, mayAct }, (data) => showActions(data, refreshNow));
}

function paymentsPlot(lastHour) {
  const title = el(
    'h2',
    {},
    'Payments per minute ',
    el('small', { class: 'quiet' }, '(the last hour; the last minute is not complete)'),
  );
  if (lastHour === null) return [title, unknown('neither Redis nor PostgreSQL responds')];
  const { from, accepted, paid } = lastHour;
  const nothing = Array(60).fill(0);
  const [primary, fallback] = [paid?.primary.payments ?? nothing, paid?.fallback.payments ?? nothing];
  return [
    title,
    legend([
      ['accepted', accepted ? `accepted: ${count(sum(accepted))}` : 'accepted: unknown, Redis does not respond'],
      ['primary', paid ? `paid at the primary: ${count(sum(primary))}` : 'paid: unknown, PostgreSQL does not respond'],
      ...(paid ? [['fallback', `paid at the fallback: ${count(sum(fallback))}`]] : []),
    ]),
    plot({
      ...{ from, line: accepted, bars: { primary, fallback }, format: short },
      label: 'Accepted and paid payments in each of the last 60 minutes',
      text: (minute) =>
        `accepted ${accepted ? count(accepted[minute]) : 'unknown'}, primary ${count(primary[minute])}, fallback ${count(fallback[minute])}`,
    }),
  ];
}

function moneyPlot(lastHour) {
  const title = el('h2', {}, 'Money per minute ', el('small', { class: 'quiet' }, '(paid in the last hour)'));
  if (lastHour === null) return [title, unknown('PostgreSQL does not respond')];
  const { from, paid } = lastHour;
  const [primary, fallback] = [paid.primary.amountCents, paid.fallback.amountCents];
  return [
    title,
    legend([
      ['primary', `primary: ${money(sum(primary))}`],
      ['fallback', `fallback: ${money(sum(fallback))}`],
    ]),
    plot({
      ...{ from, bars: { primary, fallback }, format: (cents) => short(cents / 100) },
      label: 'Money paid in each of the last 60 minutes',
      text: (minute) => `primary ${money(primary[minute])}, fallback ${money(fallback[minute])}`,
    }),
  ];
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const short = (value) => value.toLocaleString('en', { notation: 'compact', maximumSignificantDigits: 3 });

function pauseButtons(queue) {
  if (queue === undefined) return undefined;
  const [verb, explanation] = queue.isPaused
    ? ['resume', 'Workers take payments again.']
    : [
        'pause',
        'Workers take no more payments, at both gateways. Payments are still accepted, until the queue is full.',
      ];
  return buttonsOf([[verb, `${capital(verb)} the queue`, explanation, `/admin/api/${verb}`]]);
}

const STEERING = {
  stop: 'Workers send nothing more to this gateway within a second. Payments that only it may get wait in the queue.',
  drain: 'Workers send no new payments to this gateway, and go on with those that only it may get until none is left.',
  resume: 'Workers use this gateway again within a second.',
};

const NEXT = { open: ['drain', 'stop'], draining: ['stop', 'resume'], stopped: ['drain', 'resume'] };

function gatewayButtons(name, state) {
  return buttonsOf(
    NEXT[state].map((verb) => [
      verb,
      `${capital(verb)} the ${name}`,
      STEERING[verb],
      `/admin/api/gateways/${name}/${verb}`,
    ]),
  );
}

function buttonsOf(acts) {
  return el(
    'div',
    { class: 'buttons' },
    acts.map(([verb, title, explanation, path]) =>
      el(
        'button',
        {
          ...{ type: 'button', id: path },
          class: verb === 'resume' ? undefined : 'danger',
          click: () =>
            confirmAct({
              ...{ title, explanation, verb: title, isDangerous: verb !== 'resume' },
              async perform({ reason }) {
                await request('POST', path, { reason });
              },
              onDone: refreshNow,
            }),
        },
        `${title} …`,
      ),
    ),
  );
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

const mayActNow = () => last?.you.mayAct ?? false;
startSearch({ mayAct: mayActNow, onActed: refreshNow });
startDeadLetters({ mayAct: mayActNow, onActed: refreshNow });
document.addEventListener('visibilitychange', refreshNow);
setInterval(refreshNow, REFRESH_MS);
refreshNow();
