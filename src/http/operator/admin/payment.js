import { confirmAct, request } from './acts.js';
import { el, pairs, time } from './dom.js';

const TIMES = ['acceptedAt', 'since', 'requestedAt', 'recordedAt'];

const NAMES = {
  correlationId: 'id',
  acceptedAt: 'accepted',
  boundTo: 'only at',
  requestedAt: 'requestedAt',
  recordedAt: 'recorded',
  detail: 'why',
};

/** The search field, and what it finds. @param mayAct says whether the viewer may act @param onActed called after an act */
export function startSearch({ mayAct, onActed }) {
  const form = document.getElementById('search');
  const result = document.getElementById('payment');

  async function find(id) {
    result.replaceChildren(el('p', { class: 'quiet' }, 'Looking …'));
    try {
      const payment = await request('GET', `/admin/api/payments/${encodeURIComponent(id)}`);
      result.replaceChildren(describe(payment), ...(mayAct() && payment.state !== 'paid' ? [buttons(payment)] : []));
    } catch (error) {
      result.replaceChildren(el('p', { class: 'bad' }, error.message));
    }
  }

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    void find(new FormData(form).get('id').trim().toLowerCase());
  });

  function buttons({ correlationId, state }) {
    const act = (verb, options) => () =>
      confirmAct({
        verb: `${verb[0].toUpperCase()}${verb.slice(1)} it`,
        title: `${verb[0].toUpperCase()}${verb.slice(1)} ${correlationId}`,
        isDangerous: true,
        ...options,
        async perform(values) {
          await request('POST', `/admin/api/payments/${correlationId}/${verb}`, bodyOf(values));
        },
        onDone() {
          onActed();
          void find(correlationId);
        },
      });
    const record = act('record', {
      explanation:
        'Only when the provider has confirmed that the gateway was paid. State what the provider has on record. The payment ' +
        'counts as paid and is not sent again.',
      fields: [
        {
          name: 'gateway',
          label: 'Gateway',
          options: [
            ['primary', 'primary'],
            ['fallback', 'fallback'],
          ],
        },
        {
          name: 'amount',
          label: 'Amount, as the provider states it',
          inputmode: 'decimal',
          required: true,
          pattern: '\\d+(\\.\\d{1,2})?',
        },
        { name: 'requestedAt', label: 'requestedAt, as the provider states it (ISO 8601)', required: true },
      ],
    });
    const release = act('release', {
      explanation:
        'Only when the provider has confirmed that the gateway was not paid and will not be. The payment may then go to the ' +
        'other gateway: if the provider is wrong, it is paid twice. The gateway must be stopped or drained.',
    });
    const reject = act('reject', {
      explanation:
        'Only when the provider has confirmed that this payment never will be made. It becomes a dead letter.',
    });
    const isTied = state === 'unresolved' || state === 'retrying' || state === 'queued';
    return el(
      'div',
      { class: 'buttons' },
      el('button', { type: 'button', click: record }, 'Record …'),
      isTied && el('button', { type: 'button', class: 'danger', click: release }, 'Release …'),
      isTied && el('button', { type: 'button', class: 'danger', click: reject }, 'Reject …'),
    );
  }
}

/** What the endpoints take: an amount is a number. */
function bodyOf({ amount, ...values }) {
  return { ...values, ...(amount !== undefined && { amount: Number(amount) }) };
}

function describe({ correlationId, ...payment }) {
  const fields = Object.entries({ correlationId, ...payment }).map(([name, value]) => [
    NAMES[name] ?? name,
    TIMES.includes(name) ? `${time(value)}, ${value}` : String(value),
  ]);
  return el(
    'div',
    {},
    pairs('fields', fields),
    el(
      'p',
      {},
      el('a', { href: `/admin/queues/queue/payments/${correlationId}` }, 'The job in bull-board'),
      ' (while it has one)',
    ),
  );
}
