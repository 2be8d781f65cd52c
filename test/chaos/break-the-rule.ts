import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { fileURLToPath } from 'node:url';

/**
 * Loaded before a worker (`node --import`) to show that chaos can fail: takes the key rule out of the routing, so that a
 * payment with an open attempt at the primary may go to the fallback. It changes what is loaded, not what is in src.
 */
const RULE = /if \(!history\.primaryIsClean\) return [^;]+;/g;

registerHooks({
  load(url, context, nextLoad) {
    if (!url.endsWith('/src/processing/route.ts')) return nextLoad(url, context);
    const source = readFileSync(fileURLToPath(url), 'utf8');
    if (source.match(RULE)?.length !== 2) throw new Error(`the rule to be broken is not in ${url} any more`);
    return { format: 'module-typescript', source: source.replaceAll(RULE, ''), shortCircuit: true };
  },
});
