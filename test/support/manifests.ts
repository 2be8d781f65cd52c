import { globSync, readFileSync } from 'node:fs';
import { parse, parseAllDocuments } from 'yaml';

/** What is in docker/kubernetes, for its tests. */
const DIRECTORY = new URL('../../docker/kubernetes/', import.meta.url);

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  // biome-ignore lint/suspicious/noExplicitAny: test/full/kubernetes.test.ts checks each object against the schema of its kind.
  readonly [field: string]: any;
}

export interface Kustomization {
  readonly namespace: string;
  readonly resources: readonly string[];
  readonly images: readonly { readonly name: string; readonly newName: string; readonly newTag: string }[];
}

const KUSTOMIZATION = 'kustomization.yml';

/** All objects, by the file that has them, but for the kustomization, which is no object of a cluster. */
export function readManifests(): ReadonlyMap<string, readonly Manifest[]> {
  const files = globSync('*.yml', { cwd: DIRECTORY }).filter((file) => file !== KUSTOMIZATION);
  const read = (file: string) => readFileSync(new URL(file, DIRECTORY), 'utf8');
  return new Map(files.map((file) => [file, parseAllDocuments(read(file)).map((document) => document.toJS())]));
}

export function readKustomization(): Kustomization {
  return parse(readFileSync(new URL(KUSTOMIZATION, DIRECTORY), 'utf8'));
}
