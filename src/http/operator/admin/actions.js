import { confirmAct, request } from './acts.js';
import { count, duration, el, table, time } from './dom.js';
import { unknown } from './tables.js';

/** The trail: what runs, with its progress, then what operators did last. */
export function showActions({ actions, mayAct }, onActed) {
  const title = el('h2', {}, 'Actions of operators');
  if (actions === undefined) return [title, unknown('PostgreSQL does not respond')];
  const running = actions.filter(({ state }) => state === 'running');
  const rows = actions
    .filter(({ state }) => state !== 'running')
    .map(({ at, who, action, target, reason, state, outcome, endedAt }) => [
      time(at),
      who,
      action,
      text(target),
      reason,
      endedAt ? `${state} after ${duration((Date.parse(endedAt) - Date.parse(at)) / 1_000)}` : state,
      text(outcome),
    ]);
  return [
    title,
    ...running.map((action) => progressOf(action, mayAct, onActed)),
    rows.length > 0
      ? table(['when', 'who', 'what', 'on', 'why', 'state', 'outcome'], rows)
      : el('p', {}, 'None has ended yet.'),
    el('p', {}, el('a', { href: '/admin/api/actions' }, 'All of them, as JSON')),
  ];
}

function progressOf({ id, who, at, action, target, reason: why, progress = {}, perSecond }, mayAct, onActed) {
  const { done = 0, skipped = {} } = progress;
  const reached = Object.values(skipped).reduce((sum, letters) => sum + letters, done);
  const { letters: total, ...rest } = target;
  const stop = () =>
    confirmAct({
      title: `Stop ${action}`,
      explanation: 'What is done stays done. The rest stays as it is.',
      verb: 'Stop it',
      async perform({ reason }) {
        await request('DELETE', `/admin/api/actions/${encodeURIComponent(id)}?${new URLSearchParams({ reason })}`);
      },
      onDone: onActed,
    });
  return el(
    'div',
    {},
    el('p', {}, `${action} runs since ${time(at)} at ${count(perSecond)} a second, by ${who}: ${why ?? ''}`),
    el('p', { class: 'quiet' }, text(rest)),
    el('progress', { max: total, value: total && reached, 'aria-label': `Progress of ${action}` }),
    el(
      'p',
      {},
      `${count(reached)} of ${count(total)}: ${count(done)} done, ${count(reached - done)} skipped ${text(skipped)}`,
    ),
    mayAct &&
      el('div', { class: 'buttons' }, el('button', { type: 'button', id: `stop-${id}`, click: stop }, 'Stop it …')),
  );
}

/** An object as `name value, name value`. */
function text(object) {
  return Object.entries(object ?? {})
    .map(([name, value]) => `${name} ${typeof value === 'object' ? JSON.stringify(value) : value}`)
    .join(', ');
}
