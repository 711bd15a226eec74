// The flags that say what a machine is, which several verbs share, and their way to settings.
import type { Command } from 'commander';
import { readConfigFile } from '../config.ts';
import { parseDiskFlag, parseRootfsFlag } from '../disk-config.ts';
import { FaradayError } from '../errors.ts';
import type { RawSettings } from '../settings.ts';

function parseInteger(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new FaradayError('bad-usage', `--cpus '${text}' must be a whole number, such as 1`);
}

function collectDisk(text: string, disks: RawSettings[] = []): RawSettings[] {
  return [...disks, parseDiskFlag(text)];
}

/** Adds the flags of a machine to a verb. */
export function addMachineOptions(command: Command): Command {
  return command
    .helpOption('-h, --help', 'show help')
    .option('--kernel <kernel>', 'vmlinux, bzImage, or the name of a stored kernel')
    .option('--initrd <file>', 'initial RAM file system')
    .option(
      '--rootfs <disk>',
      'root disk, PATH[,ro][,OPTION...]; becomes /dev/vda',
      parseRootfsFlag,
    )
    .option(
      '--disk <disk>',
      'a further disk, path=FILE[,ro][,id=NAME][,OPTION...]; repeatable',
      collectDisk,
    )
    .option('--memory <size>', 'guest memory, such as 128M or 2G (default: 128M)')
    .option('--huge-pages <kind>', 'off, transparent or 2M (default: transparent)')
    .option('--prefault', 'touch all of guest memory before the guest starts')
    .option(
      '--cpus <number>',
      'virtual CPUs, 1 to 32; engine v8 runs one (default: 1)',
      parseInteger,
    )
    .option('--cmdline <text>', 'append to the default kernel command line')
    .option('--cmdline-replace <text>', 'use this kernel command line instead of the default')
    .option('--entry <protocol>', 'auto, pvh or linux64 (default: auto)')
    .option('--boot-timer', 'report the time until the guest writes byte 123 to port 0x3F0')
    .option('--config <file>', 'read settings from a JSON file with these names; flags win');
}

/** What was given as flags, by the names a configuration file uses too. */
function flagsOf(command: Command): RawSettings {
  const settings: RawSettings = {};
  for (const option of command.options) {
    const value = command.getOptionValue(option.attributeName());
    if (value !== undefined && option.long) settings[option.long.slice(2)] = value;
  }
  return settings;
}

/** All settings of a command: its flags, over those of the file it names. */
export function settingsOf(command: Command): [settings: RawSettings, configFile?: string] {
  const { config, ...flags } = flagsOf(command);
  if (config === undefined) return [flags];
  return [{ ...readConfigFile(config as string), ...flags }, config as string];
}
