import { readFileSync } from 'node:fs';

/** The text of a script in `scripts/`. Called when a module is loaded, so that a missing file is noticed at the start. */
export function readScript(name: string): string {
  return readFileSync(new URL(`./scripts/${name}.lua`, import.meta.url), 'utf8');
}
