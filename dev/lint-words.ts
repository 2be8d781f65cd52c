import { globSync, readFileSync } from 'node:fs';
import { runTool } from '../src/process/run-tool.ts';

/** Comments, messages, test titles and documents. The second pattern is for what stands at the top. */
const FILES = [
  '{src,dev,rinha,test,docs,migrations,docker,.github}/**/*.{ts,js,lua,md,yml,conf,sh}',
  '{*.md,*.yml,*.ts,.env.example,Makefile}',
];

/** The list itself, and the test that quotes it. */
const QUOTING = ['dev/lint-words.ts', 'test/unit/dev/lint-words.test.ts'];

/**
 * What to avoid, as a pattern in lower case, and what to write instead. A space in the pattern is also a line break, inside a
 * comment too. Only phrases with no proper use are here: a reader must never have to work around the check.
 */
const PHRASES: readonly (readonly [phrase: string, instead: string])[] = [
  ['(is|are|was|were) to be', 'say who does it: "call …", "… checks …"'],
  ['could not be asked', '"… lookup failed"'],
  ['of (its|their) own accord', '"by itself", or say what triggers it'],
  ['for want of', '"because there is no …", or name the limit'],
  ['(tells|told|telling|speaks) of', '"names", "reports", "means"'],
  ['(who|whoever) (waits|comes|asks|pays|has paid)', 'name them: "waiters", "callers", "clients"'],
  ['whoever', 'name them: "every client that …"'],
  ['those who', 'name them: "callers that …", "clients that …"'],
  ['nobody waiting', '"no client waits on it"'],
  ['what (it|they) (holds?|held)', '"what it recorded", "its payments"'],
  ['(is|are|was|were|be|been|being) given up', 'say who ends what: "the pool destroys the connection"'],
  ['giveup', '`abort()`'],
  ['taken over', '"replaced by", "lost to another worker"'],
  ['(is|are|was|were|be) gone', '"is down", "is closed", "has exited", "was removed"'],
  ['(is|are|was|were) away', '"is down", "is unreachable"'],
  ['counts as none', '"counts as a failure", or say what the call does'],
  ['unclean', '"unresolved"'],
  ['((an|the|its|no|their|late|empty) answers?|(each|every) answer)', '"response" (HTTP), "reply" (Redis)'],
  ['looks? whether', '"checks whether"'],
  ['for so long', 'name the time'],
  ['as good as', '"about", or the figure'],
  ['(is|are) sure to', '"always …", "never …"'],
  ['without meaning', '"has no effect", "is ignored"'],
  ['if need be', '"if needed"'],
  ['wins over', '"replaces", "takes precedence over"'],
  ['(start|starts|started|begins|begin) anew', '"restart", "start again"'],
  ['(slip|slips) of the pen', '"typo"'],
  ['(comes?|came) about', '"happens"'],
  ['in its orderly way', '"as on SIGTERM"'],
  ['cannot be helped', 'say what happens'],
];

/** Blanks, or one line break with the mark of a comment or a quotation. */
const SPACE = '(?:[ \\t]+|[ \\t]*\\r?\\n[ \\t]*(?:(?:\\*|//|#|--|>)[ \\t]*)?)';
const RULES = PHRASES.map(([phrase, instead]) => ({
  pattern: new RegExp(`\\b(?:${phrase.replaceAll(' ', SPACE)})\\b`, 'gi'),
  instead,
}));

/** The phrases of a text that make a reader stop, one sentence each. */
export function wordFaults(file: string, text: string): string[] {
  return RULES.flatMap(({ pattern, instead }) =>
    [...text.matchAll(pattern)].map((match) => {
      const line = text.slice(0, match.index).split('\n').length;
      return `${file}:${line} says "${match[0].replace(/\s+(\*|\/\/|#|--|>)?\s*/g, ' ')}". Instead: ${instead}`;
    }),
  );
}

async function main(): Promise<number> {
  const files = globSync(FILES).filter((file) => !QUOTING.includes(file));
  const faults = files.flatMap((file) => wordFaults(file, readFileSync(file, 'utf8')));
  for (const fault of faults) console.error(fault);
  console.log(`Checked the words of ${files.length} files: ${faults.length} faults.`);
  return faults.length > 0 ? 1 : 0;
}

runTool(import.meta, main);
