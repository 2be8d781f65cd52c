import { mkdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { runTool } from '../src/process/run-tool.ts';

/**
 * `npm run gen -- <area/name> [--no-test]`: a module and its test, in the house style. Never overwrites a file.
 * The test fails until somebody writes it.
 */
async function main(): Promise<number> {
  const args = process.argv.slice(2);
  const paths = args.filter((arg) => !arg.startsWith('--'));
  const unknownFlags = args.filter((arg) => arg.startsWith('--') && arg !== '--no-test');
  const [path] = paths;

  if (
    path === undefined ||
    paths.length !== 1 ||
    unknownFlags.length > 0 ||
    !/^([a-z][a-z0-9-]*\/)*[a-z][a-z0-9-]*$/.test(path)
  ) {
    console.error('usage: npm run gen -- <area/name> [--no-test]     for example: npm run gen -- gateways/rate-limit');
    console.error('area and name are in kebab-case, without .ts');
    return 2;
  }

  // npm runs every script in the project's directory.
  const projectDir = process.cwd();
  for (const [file, content] of filesOf(path, { withTest: !args.includes('--no-test') })) {
    mkdirSync(dirname(join(projectDir, file)), { recursive: true });
    try {
      writeFileSync(join(projectDir, file), content, { flag: 'wx' });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      console.error(`${file} already exists`);
      return 1;
    }
    console.log(`created ${file}`);
  }
  return 0;
}

/** Paths, from the project's directory, and contents. */
function filesOf(path: string, { withTest }: { withTest: boolean }): [string, string][] {
  const name = basename(path).replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
  const type = name[0]!.toUpperCase() + name.slice(1);
  const source = `src/${path}.ts`;
  const test = `test/unit/${path}.test.ts`;
  const files: [string, string][] = [
    [
      source,
      `/** What it promises, and how it fails. */
export interface ${type} {
  /** Ends it. May be called again. */
  close(): Promise<void>;
}

export function create${type}(): ${type} {
  return {
    async close() {},
  };
}
`,
    ],
  ];
  if (withTest) {
    files.push([
      test,
      `import { expect } from 'chai';
import { create${type} } from '${relative(dirname(test), source).replaceAll('\\\\', '/')}';

describe('create${type}', () => {
  it('keeps its promise', async () => {
    const ${name} = create${type}();
    await ${name}.close();
    expect.fail('not written yet: what does create${type} promise, and how does it fail?');
  });
});
`,
    ]);
  }
  return files;
}

runTool(import.meta, main);
