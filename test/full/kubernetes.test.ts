import { execFile } from 'node:child_process';
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { temporaryDirectory } from '../../dev/local/processes.ts';
import { type Manifest, readManifests } from '../support/manifests.ts';

const MODULES = fileURLToPath(new URL('../../node_modules', import.meta.url));

const manifests = [...readManifests().values()].flat();

/** The module of kubernetes-models that has this object's kind. */
function moduleOf({ apiVersion }: Manifest): string {
  return `kubernetes-models/${apiVersion}`;
}

/** The faults that Kubernetes' OpenAPI schema finds. It allows fields that no kind has. */
async function faultsBySchema(manifest: Manifest): Promise<string[]> {
  const kinds = await import(moduleOf(manifest));
  try {
    new kinds[manifest.kind](manifest).validate();
    return [];
  } catch (error) {
    return [`${manifest.kind} ${manifest.metadata.name}: ${(error as Error).message}`];
  }
}

/** What tsc says of the same objects as literals. It finds fields that their types do not have, at every depth. */
async function faultsByType(objects: readonly Manifest[]): Promise<string> {
  const dir = temporaryDirectory('manifests');
  symlinkSync(MODULES, join(dir, 'node_modules'));
  writeFileSync(join(dir, 'package.json'), '{ "type": "module" }');
  const source = objects.map(
    (object, index) =>
      `export const object${index}: import('${moduleOf(object)}').I${object.kind} = ${JSON.stringify(object, null, 1)};`,
  );
  writeFileSync(join(dir, 'manifests.ts'), source.join('\n'));
  const tsc = join(MODULES, '.bin/tsc');
  const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--types', ''];
  try {
    await promisify(execFile)(tsc, [...options, 'manifests.ts'], { cwd: dir });
    return '';
  } catch (error) {
    return (error as { stdout: string }).stdout;
  }
}

describe("Kubernetes' schema", function () {
  this.timeout(120_000);

  it('has no fault to find in the manifests', async () => {
    expect(manifests).to.have.length.above(8);
    expect((await Promise.all(manifests.map(faultsBySchema))).flat()).to.deep.equal([]);
    expect(await faultsByType(manifests)).to.equal('');
  });

  it('finds a value of the wrong type, a missing one, and a field that the kind does not have', async () => {
    const deployment = manifests.find(({ kind }) => kind === 'Deployment')!;
    const changed = (change: (manifest: Manifest) => void): Manifest => {
      const copy = structuredClone(deployment);
      change(copy);
      return copy;
    };
    const wrongType = changed(({ spec }) => {
      spec.replicas = 'two';
    });
    const missing = changed(({ spec }) => {
      delete spec.selector;
    });
    const unknown = changed(({ spec }) => {
      spec.template.spec.containers[0].readyProbe = {};
    });
    expect(await faultsBySchema(wrongType)).to.have.lengthOf(1);
    expect(await faultsBySchema(missing)).to.have.lengthOf(1);
    expect(await faultsByType([unknown])).to.include('readyProbe');
  });
});
