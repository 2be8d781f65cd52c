import { confirmAct, input, request } from './acts.js';
import { count, el, table, time } from './dom.js';

const PATH = '/admin/api/dead-letters';

const REASONS = ['invalid_payment', 'rejected', 'payload_missing'].map((reason) => [reason, reason]);
const GATEWAYS = ['primary', 'fallback'].map((gateway) => [gateway, gateway]);
const ANY = ['', 'any'];

/** The filter, what fits it, and the two acts on all that fits. @param onActed called after an act */
export function startDeadLetters({ mayAct, onActed }) {
  const found = el('div', { 'aria-live': 'polite' });
  const form = el(
    'form',
    {
      submit(event) {
        event.preventDefault();
        void list(filter());
      },
    },
    input({ name: 'reason', label: 'reason', options: [ANY, ...REASONS] }),
    input({ name: 'gateway', label: 'gateway', options: [ANY, ...GATEWAYS] }),
    input({ name: 'from', label: 'died from', type: 'datetime-local', step: 1 }),
    input({ name: 'to', label: 'until', type: 'datetime-local', step: 1 }),
    el('button', {}, 'Show'),
  );
  const details = el('details', {}, el('summary', {}, 'Look into them, retry or discard'), form, found);
  document.getElementById('dead-letters').replaceChildren(details);

  function filter() {
    const { from, to, ...values } = Object.fromEntries(new FormData(form));
    const set = {
      ...values,
      from: from && new Date(from).toISOString(),
      to: to && new Date(to).toISOString(),
    };
    return Object.fromEntries(Object.entries(set).filter(([, value]) => value));
  }

  /**
   * @param chosen the filter. The buttons below the list act on it, whatever the form says by then
   * @param after where the page before has ended
   */
  async function list(chosen, after) {
    found.replaceChildren(el('p', { class: 'quiet' }, 'Looking …'));
    try {
      const query = new URLSearchParams({ ...chosen, ...(after && { after }) });
      const { matching, deadLetters, next } = await request('GET', `${PATH}?${query}`);
      const total = Object.values(matching).reduce((sum, letters) => sum + letters, 0);
      if (deadLetters.length === 0) return found.replaceChildren(el('p', {}, 'None fits.'));
      found.replaceChildren(
        el('p', {}, `${count(total)} fit.`),
        table(['died', 'id', 'reason', 'gateway', '#runs', 'detail'], deadLetters.map(rowOf)),
        next ? el('button', { type: 'button', click: () => void list(chosen, next) }, 'Older ones') : '',
        mayAct() ? buttons(selectionOf(chosen)) : '',
      );
    } catch (error) {
      found.replaceChildren(el('p', { class: 'bad' }, error.message));
    }
  }

  function buttons(selection) {
    const button = (verb, title, className) =>
      el('button', { type: 'button', class: className, click: () => plan(verb, selection) }, title);
    return el(
      'div',
      { class: 'buttons' },
      button('retry', 'Retry all that fit …'),
      button('discard', 'Discard all that fit …', 'danger'),
    );
  }

  /** A dry run first: it says what would be done, and why not the rest. */
  async function plan(verb, selection) {
    const said = found.appendChild(el('p', { role: 'status' }, 'Counting …'));
    try {
      const { summary } = await request('POST', `${PATH}/${verb}`, { ...selection, dryRun: true });
      said.remove();
      confirmAct({
        title: `${verb === 'retry' ? 'Retry' : 'Discard'} dead letters`,
        explanation: summary,
        fields: [
          { name: 'perSecond', label: 'At most so many a second', type: 'number', min: 1, max: 1000, value: 50 },
        ],
        verb: 'Run it',
        isDangerous: verb === 'discard',
        async perform({ perSecond, reason }) {
          await request('POST', `${PATH}/${verb}`, { ...selection, perSecond: Number(perSecond), reason });
          return 'It runs. Its progress is under "Actions of operators", with a button that stops it.';
        },
        onDone: onActed,
      });
    } catch (error) {
      said.className = 'bad';
      said.textContent = error.message;
    }
  }
}

function rowOf({ diedAt, correlationId, jobId, reason, gateway, attempts, detail }) {
  return [time(diedAt), correlationId ?? jobId, reason, gateway, attempts, detail];
}

/** Without a filter the endpoint wants to hear that all are meant. */
function selectionOf(filter) {
  return Object.keys(filter).length > 0 ? { filter } : { all: true };
}
