import { globSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join } from 'node:path/posix';
import { runTool } from '../src/process/run-tool.ts';

/** What every room of src may import. Of each other, too; Biome looks for cycles. */
const FOUNDATION = ['config', 'errors', 'payment', 'batcher', 'process'];

interface Room {
  /** Rooms, or single files of a room. */
  readonly imports: readonly string[];
  /** The same, for `import type` alone. */
  readonly types?: readonly string[];
}

/**
 * The rooms of src: a folder, or a file beside them. A room imports itself, the foundation, and what is listed here; the
 * arrows go one way. Only the entries construct parts and join them, so nobody imports an entry but an entry.
 */
const ROOMS: Readonly<Record<string, Room>> = {
  ...Object.fromEntries(FOUNDATION.map((room) => [room, { imports: [] }])),
  telemetry: { imports: [] },
  // The contract of a run is how a job and its processing meet.
  queue: { imports: ['telemetry', 'processing/payment-run.ts'] },
  gateways: { imports: ['telemetry'] },
  ledger: { imports: ['telemetry'] },
  processing: { imports: ['telemetry', 'gateways'], types: ['ledger'] },
  operations: { imports: ['telemetry', 'queue', 'ledger'] },
  // The API never talks to a gateway.
  http: { imports: ['telemetry', 'queue', 'ledger', 'operations'] },
  commands: { imports: ['telemetry', 'queue', 'ledger', 'operations', 'gateways', 'processing'] },
};

const NO_ROOM: Room = { imports: [] };

const ENTRIES = ['main', 'api', 'operator', 'worker'];

/** Libraries that one room, or a few, hide from all others. The others are everybody's. */
const LIBRARIES: Readonly<Record<string, readonly string[]>> = {
  express: ['http'],
  '@bull-board': ['http'],
  bullmq: ['queue'],
  ioredis: ['queue'],
  got: ['gateways'],
  knex: ['ledger'],
  pg: ['ledger', 'commands'],
  winston: ['process'],
  'prom-client': ['telemetry'],
};

/** What the folders beside src may import of each other. */
const FOLDERS: Readonly<Record<string, readonly string[]>> = {
  src: [],
  dev: ['src'],
  // The challenge's bench uses the bench's arithmetic.
  rinha: ['src', 'dev', 'test'],
  migrations: [],
};

/** BullMQ's fields and its arithmetic of scores. One file of src and the Lua scripts know them. */
const BULLMQ_INSIDES = /'(ats|atm|progress)'|\b4096\b/;
const BULLMQ_LAYOUT = 'src/queue/bullmq-layout.ts';

interface Import {
  readonly target: string;
  readonly isType: boolean;
  readonly line: number;
}

/** Reads declarations, re-exports, `import()` in code and in types, and `require()`. Biome keeps them in this spelling. */
export function importsOf(text: string): Import[] {
  const pattern = /(?:\b(import|export)(\s+type\b)?[^'"`;]*?\bfrom\s*|\bimport\s*\(?\s*|\brequire\(\s*)(['"`])(.+?)\3/g;
  return [...text.matchAll(pattern)].map((match) => ({
    target: match[4]!,
    isType: match[2] !== undefined,
    line: text.slice(0, match.index + match[0].length).split('\n').length,
  }));
}

/**
 * What a file knows or imports and must not, one sentence each.
 * @param file its path in the project, with slashes
 */
export function layerFaults(file: string, text: string): string[] {
  return [...roomFaults(file), ...importFaults(file, text), ...insideFaults(file, text)];
}

function roomFaults(file: string): string[] {
  if (!file.startsWith('src/') || ENTRIES.includes(roomOf(file)) || Object.hasOwn(ROOMS, roomOf(file))) return [];
  return [`${file}:1 is in no room that dev/lint-layers.ts lists`];
}

function insideFaults(file: string, text: string): string[] {
  if (!file.startsWith('src/') || file === BULLMQ_LAYOUT) return [];
  return text.split('\n').flatMap((content, index) => {
    const found = BULLMQ_INSIDES.exec(content)?.[0];
    return found === undefined ? [] : [`${file}:${index + 1} must leave BullMQ's ${found} to ${BULLMQ_LAYOUT}`];
  });
}

function importFaults(file: string, text: string): string[] {
  return importsOf(text).flatMap(({ target, isType, line }) => {
    const fault = target.startsWith('.')
      ? fileFault(file, join(dirname(file), target), isType)
      : libraryFault(file, target);
    return fault === undefined ? [] : [`${file}:${line} ${fault}`];
  });
}

function fileFault(file: string, target: string, isType: boolean): string | undefined {
  const [folder, targetFolder] = [file.split('/')[0]!, target.split('/')[0]!];
  if (folder !== targetFolder) {
    const isAllowed = FOLDERS[folder]?.includes(targetFolder) ?? true;
    return isAllowed ? undefined : `${folder}/ must not import ${targetFolder}/ (${target})`;
  }
  if (folder !== 'src') return undefined;
  const [room, targetRoom] = [roomOf(file), roomOf(target)];
  if (room === targetRoom || ENTRIES.includes(room)) return undefined;
  const { imports, types = [] } = ROOMS[room] ?? NO_ROOM;
  const path = target.slice('src/'.length);
  const isListed = (list: readonly string[]) => list.includes(targetRoom) || list.includes(path);
  if (isListed(FOUNDATION) || isListed(imports)) return undefined;
  if (!isListed(types)) return `${room} must not import ${path}`;
  return isType ? undefined : `${room} must import ${path} for its types only: \`import type\``;
}

function libraryFault(file: string, target: string): string | undefined {
  if (!file.startsWith('src/') || isBuiltin(target)) return undefined;
  const library = target.split('/')[0]!;
  const room = roomOf(file);
  const rooms = LIBRARIES[library];
  if (rooms === undefined || rooms.includes(room)) return undefined;
  return `${room} must not import ${library}: only ${rooms.join(' and ')} may`;
}

/** The folder in src, or the file beside the folders without its ending. */
function roomOf(path: string): string {
  return path.split('/')[1]!.replace(/\.ts$/, '');
}

async function main(): Promise<number> {
  const files = globSync('{src,dev,rinha,migrations}/**/*.ts');
  const faults = files.flatMap((file) => layerFaults(file.replaceAll('\\', '/'), readFileSync(file, 'utf8')));
  for (const fault of faults) console.error(fault);
  console.log(`Checked the layers of ${files.length} files: ${faults.length} faults.`);
  return faults.length > 0 ? 1 : 0;
}

runTool(import.meta, main);
