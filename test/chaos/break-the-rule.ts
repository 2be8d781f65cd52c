import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { fileURLToPath } from 'node:url';

/**
 * Loaded before a worker (`node --import`) to show that chaos can fail: every exported function of the routing is told that
 * the primary is clean, so that a payment with an unresolved attempt there may go to the fallback. It changes what is
 * loaded, not what is in src. A routing that has moved, or names its parts otherwise, stops the start of the worker.
 */
const ROUTE = new URL('../../src/processing/route.ts', import.meta.url).href;
const BROKEN = { primaryIsClean: true };

const source = readFileSync(fileURLToPath(ROUTE), 'utf8');
const rules = [...source.matchAll(/^export function (\w+)\(/gm)].map(([, name]) => name!);
const missing = Object.keys(BROKEN).filter((field) => !source.includes(`history.${field}`));
if (rules.length === 0 || missing.length > 0) {
  throw new Error(`the rule to be broken is not in ${ROUTE} any more: no function that asks for ${missing.join(', ')}`);
}

/** An exported function declaration is a live binding: assigning to it is seen by every importer. */
const breaking = `
const broken = ${JSON.stringify(BROKEN)};
const isHistory = (value) => typeof value === 'object' && value !== null && Object.keys(broken).every((key) => key in value);
const withBrokenHistory = (rule) => (...args) => rule(...args.map((arg) => (isHistory(arg) ? { ...arg, ...broken } : arg)));
${rules.map((name) => `${name} = withBrokenHistory(${name});`).join('\n')}
`;

registerHooks({
  load(url, context, nextLoad) {
    if (url !== ROUTE) return nextLoad(url, context);
    return { format: 'module-typescript', source: source + breaking, shortCircuit: true };
  },
});
