import { el, time } from './dom.js';

/** Every problem in words, with what the runbook says about it. */
export function showProblems(problems) {
  if (problems.length === 0) {
    return [
      el('h2', {}, 'Problems'),
      el('p', { class: 'good' }, 'None is known: payments are accepted, taken and recorded.'),
    ];
  }
  return [
    el('h2', {}, problems.length === 1 ? '1 problem' : `${problems.length} problems`),
    ...problems.map(({ code, since, cause }) =>
      el(
        'div',
        { class: 'problem' },
        el('h3', {}, el('code', {}, code), ` since ${time(since)}`),
        el('p', {}, cause),
        whatToDo(code),
      ),
    ),
  ];
}

function whatToDo(code) {
  const text = el('div', {}, 'Loading …');
  const details = el(
    'details',
    {
      async toggle() {
        if (!details.open) return;
        try {
          text.replaceChildren(...(await chapterOf(code)));
        } catch {
          text.replaceChildren(el('p', {}, 'See docs/runbook.md: it could not be loaded from this node.'));
        }
      },
    },
    el('summary', {}, 'What to do'),
    text,
  );
  return details;
}

let runbook;

/** The chapter of docs/runbook.md that has this code in its heading, as elements. */
async function chapterOf(code) {
  runbook ??= fetch('/admin/runbook.md').then((response) => (response.ok ? response.text() : Promise.reject()));
  runbook.catch(() => {
    runbook = undefined;
  });
  const chapters = (await runbook).split(/^## /m).slice(1);
  const chapter = chapters.find((text) => new RegExp(`\\b${code}\\b`).test(text.split('\n', 1)[0]));
  if (chapter === undefined) throw new Error('no chapter');
  const blocks = chapter
    .split('\n')
    .slice(1)
    .filter((line) => line.trim() !== '');
  return blocks.map((line) => el('p', {}, ...inline(line)));
}

/** Bold and code of Markdown. Of a link the text: it leads to a document that this node does not serve. */
function inline(line) {
  return line.split(/(\*\*[^*]+\*\*|`[^`]+`|\[[^\]]+\]\([^)]+\))/).map((part) => {
    if (part.startsWith('**')) return el('strong', {}, part.slice(2, -2));
    if (part.startsWith('`')) return el('code', {}, part.slice(1, -1));
    return part.replace(/^\[([^\]]+)\]\([^)]+\)$/, '$1');
  });
}
