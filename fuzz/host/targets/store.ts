// meta.json of a stored kernel: nobody else's file, but one that may be damaged.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { META_VERSION, storedKernel, storedNames } from '../../../host/kernel/store.ts';
import { needsNoModules } from '../../../host/kernel/traits.ts';
import type { Parser } from '../target.ts';
import { must } from './must.ts';
import { scratch } from './scratch.ts';

const NAME = 'stored';
const META = {
  metaVersion: META_VERSION,
  name: NAME,
  version: '6.1.0',
  source: 'linux.deb',
  sourceSha256: '00',
  modules: ['virtio'],
  filesystems: ['ext4'],
  traits: { version: '6.1.0', acpi: true, builtIn: ['virtio_blk'] },
};

export function storeParser(): Parser {
  const files = scratch();
  const before = process.env.XDG_DATA_HOME;
  process.env.XDG_DATA_HOME = files.folder;
  const folder = join('faraday/kernels', NAME);
  mkdirSync(join(files.folder, folder), { recursive: true });
  files.write(join(folder, 'vmlinux'), Buffer.from('kernel'));
  return {
    seeds: () => [
      Buffer.from(JSON.stringify(META)),
      Buffer.from(JSON.stringify({ ...META, version: null })),
      Buffer.from('{}'),
    ],
    run(input) {
      files.write(join(folder, 'meta.json'), input);
      must(storedNames().includes(NAME), 'the store does not list it');
      const entry = storedKernel(NAME);
      must(entry !== null && entry.name === NAME, 'the store has another');
      const { version, traits, modules, filesystems, source } = entry;
      needsNoModules(traits, 'ext4');
      must(version === null || typeof version === 'string', 'a version that is no text');
      const texts = [source, ...modules, ...filesystems, ...traits.builtIn];
      must(
        texts.every((text) => typeof text === 'string'),
        'a list of other things than text',
      );
    },
    dictionary: ['null', '{}', '[]', '1', 'true', ...Object.keys(META)].map((t) => Buffer.from(t)),
    close() {
      if (before === undefined) delete process.env.XDG_DATA_HOME;
      else process.env.XDG_DATA_HOME = before;
      files.remove();
    },
  };
}
