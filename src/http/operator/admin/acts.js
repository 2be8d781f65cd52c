import { el } from './dom.js';

/** A request to this node. @throws an Error whose message is for the operator */
export async function request(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal: AbortSignal.timeout(method === 'GET' ? 5_000 : 70_000),
      ...(body && { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
    });
  } catch (error) {
    throw new Error(error.name === 'TimeoutError' ? 'no response in time' : 'the node cannot be reached');
  }
  const text = await response.text();
  const parsed = parse(text);
  if (response.ok) return parsed;
  throw new Error(explain(response.status, parsed));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What a body `{"error": code}` says beside its code. */
function explain(status, { error = 'no code', message, errors = [] } = {}) {
  if (status === 401) return 'the login is not valid any more: reload the page';
  const faults = errors.map(({ param, message: fault }) => `${param} ${fault}`);
  return [`${status} ${error}`, message, ...faults].filter(Boolean).join('; ');
}

/**
 * Asks the operator for a reason and a confirmation, then acts. The dialog stays open with the fault when the act fails.
 * @param fields more inputs: `{ name, label, …attributes }`, or with `options` a select
 * @param perform gets `{ reason, …fields }`. What it returns, a text or undefined, is shown until the operator closes it
 */
export function confirmAct({ title, explanation, fields = [], verb, isDangerous, perform, onDone }) {
  const dialog = document.getElementById('dialog');
  const fault = el('p', { class: 'bad', role: 'alert' });
  const submit = el('button', { class: isDangerous ? 'danger' : undefined }, verb);
  const cancel = el('button', { type: 'button', click: () => dialog.close() }, 'Cancel');
  const form = el(
    'form',
    {
      submit: async (event) => {
        event.preventDefault();
        submit.disabled = true;
        fault.textContent = '';
        try {
          const said = await perform(Object.fromEntries(new FormData(form)));
          onDone?.();
          if (said === undefined) return dialog.close();
          form.replaceChildren(heading(title), el('p', { role: 'status' }, said), closing(dialog));
        } catch (error) {
          fault.textContent = `Not done: ${error.message}`;
        } finally {
          submit.disabled = false;
        }
      },
    },
    heading(title),
    el('p', {}, explanation),
    fields.map(input),
    el(
      'label',
      {},
      'Why? It is kept in the trail.',
      el('textarea', { name: 'reason', required: true, maxlength: 200 }),
    ),
    fault,
    el('div', { class: 'buttons' }, submit, cancel),
  );
  dialog.replaceChildren(form);
  dialog.showModal();
}

function heading(title) {
  return el('h2', { id: 'dialog-title' }, title);
}

function closing(dialog) {
  return el(
    'div',
    { class: 'buttons' },
    el('button', { type: 'button', autofocus: true, click: () => dialog.close() }, 'Close'),
  );
}

/** An input or a select with its label. */
export function input({ name, label, options, ...attributes }) {
  const control = options
    ? el(
        'select',
        { name, ...attributes },
        options.map(([value, text]) => el('option', { value }, text)),
      )
    : el('input', { name, autocomplete: 'off', ...attributes });
  return el('label', {}, label, control);
}
