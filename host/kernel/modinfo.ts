// What a kernel module says of itself: its .modinfo section.
// System V ABI, ELF-64 Object File Format 1.5: file header, section header, string table.
// Linux include/linux/module.h: 'key=value' strings, each ended by NUL. Left out: symbols,
// signatures, parameters.
//
// Elf64_Ehdr: +40 shoff u64  +58 shentsize u16  +60 shnum u16  +62 shstrndx u16
// Elf64_Shdr: +0 name u32    +24 offset u64     +32 size u64
import { FaradayError } from '../errors.ts';

const EHDR_BYTES = 64;
const SHDR_BYTES = 64;
const ELF_MAGIC = '\x7fELF';
const MODINFO_BYTES_MAX = 1024 * 1024;

export interface ModuleInfo {
  name: string;
  release: string; // the kernel it was built for: the first word of vermagic
  depends: string[]; // modules whose symbols it uses
  softdepPre: string[]; // modules or aliases which should be there before it
  aliases: string[];
}

/** Module names are equal whether they are written with dashes or underscores. */
export function moduleName(text: string): string {
  return text.replaceAll('-', '_');
}

function damaged(label: string, finding: string): FaradayError {
  const fix = 'install the kernel package again';
  return new FaradayError('bad-kernel', `module ${label}: ${finding}; ${fix}`);
}

function sectionNamed(module: Buffer, wanted: string, label: string): Buffer {
  const isElf = module.length >= EHDR_BYTES && module.toString('latin1', 0, 4) === ELF_MAGIC;
  if (!isElf) throw damaged(label, 'is no ELF file');
  const start = Number(module.readBigUInt64LE(40));
  const count = module.readUInt16LE(60);
  if (module.readUInt16LE(58) !== SHDR_BYTES || start + count * SHDR_BYTES > module.length) {
    throw damaged(label, 'its section table is truncated');
  }
  const section = (index: number): { name: number; body: Buffer } => {
    const at = start + index * SHDR_BYTES;
    const offset = Number(module.readBigUInt64LE(at + 24));
    const end = offset + Number(module.readBigUInt64LE(at + 32));
    // A section without bytes in the file may claim any size.
    const body = end > module.length ? Buffer.alloc(0) : module.subarray(offset, end);
    return { name: module.readUInt32LE(at), body };
  };
  const namesIndex = module.readUInt16LE(62);
  if (namesIndex >= count) throw damaged(label, 'its section table is damaged');
  const names = section(namesIndex).body;
  const pattern = Buffer.from(`${wanted}\0`, 'latin1');
  for (let index = 0; index < count; index++) {
    const { name, body } = section(index);
    if (names.subarray(name, name + pattern.length).equals(pattern)) return body;
  }
  throw damaged(label, `has no section ${wanted}`);
}

/** Splits a .modinfo section, or modules.builtin.modinfo, into its 'key=value' strings. */
export function modinfoPairs(bytes: Buffer): [string, string][] {
  return bytes
    .toString('latin1')
    .split('\0')
    .filter((text) => text.includes('='))
    .map((text) => {
      const at = text.indexOf('=');
      return [text.slice(0, at), text.slice(at + 1)];
    });
}

/** The names after 'pre:' in a softdep, up to 'post:'. */
function softdepPre(value: string): string[] {
  const words = value.split(/\s+/).filter(Boolean);
  const pre: string[] = [];
  let inPre = false;
  for (const word of words) {
    if (word === 'pre:' || word === 'post:') inPre = word === 'pre:';
    else if (inPre) pre.push(word);
  }
  return pre;
}

/** Reads an uncompressed module. `label` names it in messages. Throws FaradayError. */
export function readModuleInfo(module: Buffer, label: string): ModuleInfo {
  const section = sectionNamed(module, '.modinfo', label);
  if (section.length > MODINFO_BYTES_MAX) throw damaged(label, 'its .modinfo is absurdly large');
  const pairs = modinfoPairs(section);
  const all = (key: string): string[] => pairs.filter(([k]) => k === key).map(([, value]) => value);
  const release = all('vermagic')[0]?.split(' ')[0];
  if (!release) throw damaged(label, 'has no vermagic');
  const depends = (all('depends')[0] ?? '').split(',').filter(Boolean).map(moduleName);
  return {
    name: moduleName(all('name')[0] ?? label),
    release,
    depends,
    softdepPre: all('softdep').flatMap(softdepPre),
    aliases: all('alias'),
  };
}
