import knex from 'knex';
import knexfile from '../knexfile.ts';
import { describeError } from './logger.ts';

/**
 * The entry of `npm run db:migrate` (latest) and `npm run db:rollback` (the last batch). The knex command line does the same,
 * but looks for half a dozen TypeScript loaders first, none of which Node 24 needs, and reports each as missing.
 */
const [direction = 'latest'] = process.argv.slice(2);
if (direction !== 'latest' && direction !== 'rollback') {
  console.error('usage: node src/migrate.ts [latest|rollback]');
  process.exit(2);
}

const db = knex(knexfile);
try {
  const [batch, names] = (await db.migrate[direction]()) as [number, string[]];
  console.log(names.length === 0 ? 'nothing to do' : `${direction}, batch ${batch}: ${names.join(', ')}`);
} catch (error) {
  console.error(describeError(error));
  process.exitCode = 1;
} finally {
  await db.destroy();
}
