import { cpus } from 'node:os';
import { printError, runTool } from '../../src/process/run-tool.ts';
import { accept } from './accept.ts';
import { deepQueue } from './deep-queue.ts';
import { drain } from './drain.ts';
import { durability } from './durability.ts';
import { enqueue } from './enqueue.ts';
import { fleet } from './fleet.ts';
import { ledger } from './ledger.ts';
import { isWithinBudget, type Result, showTable } from './measure.ts';
import { shards } from './shards.ts';
import { ROUNDS } from './stage.ts';

/**
 * `npm run bench [part…]`: measures each budget beside its baseline in the same run, in alternating rounds, by medians.
 * CPU comes from the operating system's accounting. Exits with 1 when a budget is missed. Parts: accept drain enqueue deep
 * ledger durability shards fleet.
 */
const parts: Record<string, () => Promise<Result[]>> = {
  accept,
  drain,
  enqueue,
  deep: deepQueue,
  ledger,
  durability,
  shards,
  fleet,
};

async function main(): Promise<number> {
  const asked = process.argv.slice(2);
  const unknown = asked.filter((name) => !Object.hasOwn(parts, name));
  if (unknown.length > 0) throw new Error(`no part of the bench: ${unknown.join(', ')}`);
  const results: Result[] = [];
  console.log(`Node ${process.version}, ${cpus().length} × ${cpus()[0]!.model}, ${ROUNDS} rounds, medians\n`);
  for (const [name, run] of Object.entries(parts)) {
    if (asked.length === 0 || asked.includes(name)) results.push(...(await run()));
  }
  console.log(showTable(results));
  return results.every(isWithinBudget) ? 0 : 1;
}

runTool(import.meta, main, { onError: printError });
