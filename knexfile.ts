import { loadConfig } from './src/config.ts';
import { migrationConfig } from './src/ledger/migrations.ts';

/** For the knex command line, with the service's own settings. The scripts `npm run db:*` do not use it. */
export default migrationConfig(loadConfig().database);
