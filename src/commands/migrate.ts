import { loadConfig } from '../config.ts';
import { migrateToLatest, rollBack } from '../ledger/migrations.ts';
import { describeError } from '../process/describe-error.ts';
import { runTool } from '../process/run-tool.ts';

/**
 * `npm run db:migrate` (to the latest) and `npm run db:rollback` (the last batch). The knex command line does the same, but
 * first reports half a dozen TypeScript loaders as missing, none of which Node 24 needs.
 */
async function main(): Promise<number> {
  const [direction = 'latest', ...flags] = process.argv.slice(2);
  const isUsable = direction === 'latest' ? flags.length === 0 : direction === 'rollback' && flags.every(isYes);
  if (!isUsable) {
    console.error('usage: node src/commands/migrate.ts [latest | rollback [--yes]]');
    return 2;
  }
  const { database } = loadConfig();
  const done =
    direction === 'latest'
      ? await migrateToLatest(database)
      : await rollBack(database, flags.some(isYes) ? 'drop' : 'keep');
  if ('rowsAtStake' in done) {
    const rows = Object.entries(done.rowsAtStake).map(([table, count]) => `${count} in ${table}`);
    console.error(`nothing was rolled back, because that may drop rows of the ledger (${rows.join(', ')}).`);
    console.error('To drop them: npm run db:rollback -- --yes');
    return 1;
  }
  console.log(
    done.names.length === 0 ? 'nothing to do' : `${direction}, batch ${done.batch}: ${done.names.join(', ')}`,
  );
  return 0;
}

function isYes(flag: string): boolean {
  return flag === '--yes';
}

function explain(error: unknown): number {
  console.error(describeError(error));
  return 1;
}

runTool(import.meta, main, { onError: explain });
