// From a kernel image to the ELF file inside it, and what is worth knowing of it. Done once for
// each image: the results are cached by the image's content.
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { readBzImage } from '../boot/bzimage.ts';
import { fileError, type InputFile, inputOf, withInput } from '../boot/file.ts';
import { MIB } from '../boot/layout.ts';
import { notAKernel, SNIFF_BYTES, sniffKernel } from '../boot/sniff.ts';
import { decompress } from './decompress.ts';
import { cacheFolder, publish, withTemporaryFolder, writeDurably } from './folders.ts';
import { findConfig, inspectKernel } from './inspect.ts';
import { configPaths, type PlainKernel } from './known.ts';
import { KERNEL_BYTES_MAX, shrinkElf } from './shrink.ts';
import { isTraits, type KernelTraits } from './traits.ts';

const CONFIG_BYTES_MAX = 4 * MIB;
const CACHE_FORMAT = '1'; // part of every cache key: raise it when cached files change their form

/** What an image holds. */
export interface Extracted {
  kernel: Buffer; // an ELF file, checked, without what no guest loads
  traits: KernelTraits;
  config: string | null; // the kernel's configuration, where it was found
}

export function sha256(...parts: (Uint8Array | string)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

/** The same of a file of any size: one with debug information is larger than a buffer can be. */
export async function sha256OfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash, { signal });
  return hash.digest('hex');
}

/** A bzImage, whole. */
function readImage(file: InputFile): Buffer {
  if (file.sizeBytes <= KERNEL_BYTES_MAX) return file.read(0, file.sizeBytes);
  throw fileError(file, `is larger than ${KERNEL_BYTES_MAX / MIB} MiB; the file is damaged`);
}

/** The ELF file inside a bzImage. */
async function unpack(image: InputFile, signal?: AbortSignal): Promise<Buffer> {
  const { compression, packedOffset, packedBytes, unpackedBytes } = readBzImage(image);
  if (unpackedBytes > KERNEL_BYTES_MAX) {
    const finding = `its payload is corrupt: it claims to unpack to ${unpackedBytes} bytes`;
    throw fileError(image, `${finding}; copy or download it again`);
  }
  const packed = image.read(packedOffset, packedBytes);
  const options = { limitBytes: unpackedBytes, label: image.label, signal };
  const kernel = await decompress(compression, packed, options);
  if (kernel.length === unpackedBytes) return kernel;
  const finding = `its payload is corrupt: ${kernel.length} bytes instead of ${unpackedBytes}`;
  throw fileError(image, `${finding}; copy or download it again`);
}

function formatOf(file: InputFile): 'elf' | 'bzimage' {
  const format = sniffKernel(file.read(0, SNIFF_BYTES));
  if (format === 'other') throw notAKernel(file);
  return format;
}

const withKernel = <T>(path: string, use: (file: InputFile) => T): T => {
  return withInput(path, 'kernel', 'bad-kernel', use);
};
const kernelOf = (bytes: Buffer, path: string): InputFile => {
  return inputOf(bytes, path, 'kernel', 'bad-kernel');
};

/** A text that helps where it can be read. */
function optionalText(path: string): string | null {
  try {
    const status = statSync(path);
    const isUsable = status.isFile() && status.size <= CONFIG_BYTES_MAX;
    return isUsable ? readFileSync(path, 'utf8') : null;
  } catch {
    return null;
  }
}

/** The configuration beside a kernel: config-VERSION next to vmlinuz-VERSION, or .config. */
function configBeside(kernelPath: string): string | null {
  for (const path of configPaths(kernelPath)) {
    const text = optionalText(path);
    // A file of this name may be anything: only the configuration of a 64-bit x86 kernel counts.
    if (text !== null && /^CONFIG_X86_64=y$/m.test(text)) return text;
  }
  return null;
}

/**
 * Takes the ELF file out of a vmlinux or a bzImage and checks it. Throws FaradayError:
 * 'bad-kernel', or 'host' where the tool to unpack it is not installed.
 */
export async function extractKernel(path: string, signal?: AbortSignal): Promise<Extracted> {
  // Of a vmlinux only what is loaded is read: debug information may be many times as large.
  const read = withKernel(path, (file) => {
    const format = formatOf(file);
    return { format, bytes: format === 'elf' ? shrinkElf(file) : readImage(file) };
  });
  const kernel =
    read.format === 'elf'
      ? read.bytes
      : shrinkElf(kernelOf(await unpack(kernelOf(read.bytes, path), signal), path));
  const config = configBeside(path) ?? findConfig(kernel);
  return { kernel, traits: inspectKernel(kernel, config), config };
}

function readTraits(path: string): KernelTraits | null {
  try {
    const traits: unknown = JSON.parse(readFileSync(path, 'utf8'));
    return isTraits(traits) ? traits : null;
  } catch {
    return null; // not there, or damaged: made again
  }
}

/** The ELF file in a bzImage, from the cache or put there. */
async function cachedBzImage(path: string, signal?: AbortSignal): Promise<PlainKernel> {
  const key = sha256(CACHE_FORMAT, withKernel(path, readImage));
  const folder = join(cacheFolder(), key);
  const vmlinuxPath = join(folder, 'vmlinux');
  const known = readTraits(join(folder, 'traits.json'));
  if (known && existsSync(vmlinuxPath)) return { vmlinuxPath, traits: known };
  return withTemporaryFolder(cacheFolder(), async (temporary) => {
    const { kernel, traits } = await extractKernel(path, signal);
    writeDurably(join(temporary, 'vmlinux'), kernel);
    writeDurably(join(temporary, 'traits.json'), JSON.stringify(traits));
    rmSync(folder, { recursive: true, force: true }); // incomplete, or we would not be here
    publish(temporary, folder);
    return { vmlinuxPath, traits };
  });
}

/** An ELF kernel stays where it is. */
function inspectedElf(path: string): PlainKernel {
  const traits = inspectKernel(withKernel(path, shrinkElf), configBeside(path));
  return { vmlinuxPath: path, traits };
}

/**
 * The ELF file for a kernel given by path, extracted into the cache where need be. Throws
 * FaradayError: 'bad-kernel' or 'host'.
 */
export async function plainKernel(path: string, signal?: AbortSignal): Promise<PlainKernel> {
  const format = withKernel(path, formatOf);
  return format === 'elf' ? inspectedElf(path) : cachedBzImage(path, signal);
}
