import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { fileURLToPath } from 'node:url';

/**
 * Loaded before a worker (`node --import`) to show that chaos can fail: no payment counts as one that may have been paid at
 * the primary, so an unresolved one may go to the fallback. It changes what Node loads, not the file in src. When the rule
 * has moved or has another name, the worker does not start.
 */
const FILE = new URL('../../src/processing/process-payment.ts', import.meta.url).href;
const RULE = 'unresolvedAt';

const source = readFileSync(fileURLToPath(FILE), 'utf8');
if (!source.includes(`function ${RULE}(`)) throw new Error(`${FILE} has no function ${RULE} to break`);

registerHooks({
  load(url, context, nextLoad) {
    if (url !== FILE) return nextLoad(url, context);
    // A function declaration can be assigned to within its module.
    return { format: 'module-typescript', source: `${source}\n${RULE} = () => undefined;\n`, shortCircuit: true };
  },
});
