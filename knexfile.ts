import { loadConfig } from './src/config.ts';
import { migrationConfig } from './src/ledger/migrations.ts';

/** For the knex command line; the settings come from the same place as the service's. `npm run db:*` do without it. */
export default migrationConfig(loadConfig().database);
