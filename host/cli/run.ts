// `faraday run`: boot one guest and stay with it. The default verb.
import { Command } from 'commander';
import {
  parseDiskFlag,
  parseRootfsFlag,
  type RawSettings,
  readConfigFile,
  toRunConfig,
} from '../config.ts';
import { FaradayError } from '../errors.ts';
import { createLog } from '../log.ts';
import { runMachine } from '../machine.ts';

function parseInteger(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new FaradayError('bad-usage', `--cpus '${text}' must be a whole number, such as 1`);
}

function collectDisk(text: string, disks: RawSettings[] = []): RawSettings[] {
  return [...disks, parseDiskFlag(text)];
}

export const runCommand = new Command('run')
  .description('boot a guest and attach its console to this terminal')
  .helpOption('-h, --help', 'show help')
  .option('--kernel <kernel>', 'vmlinux, bzImage, or the name of a stored kernel')
  .option('--initrd <file>', 'initial RAM file system')
  .option('--rootfs <disk>', 'root disk, PATH[,ro]; becomes /dev/vda', parseRootfsFlag)
  .option('--disk <disk>', 'a further disk, path=FILE[,ro][,id=NAME]; repeatable', collectDisk)
  .option('--memory <size>', 'guest memory, such as 128M or 2G (default: 128M)')
  .option('--cpus <number>', 'virtual CPUs; engine v8 runs one (default: 1)', parseInteger)
  .option('--cmdline <text>', 'append to the default kernel command line')
  .option('--cmdline-replace <text>', 'use this kernel command line instead of the default')
  .option('--entry <protocol>', 'auto, pvh or linux64 (default: auto)')
  .option('--net-backend <backend>', 'none (default: none)')
  .option('--boot-timer', 'report the time until the guest writes byte 123 to port 0x3F0')
  .option('--engine <engine>', 'v8 (default: v8)')
  .option('--config <file>', 'read settings from a JSON file with these names; flags win')
  .option('--report <file>', 'write what happened as JSON')
  .option('--log-level <level>', 'error, warn, info or debug (default: warn)')
  .action(async (_options: unknown, command: Command) => {
    const { config: configFile, ...flags } = settingsOf(command);
    const file = configFile === undefined ? {} : readConfigFile(configFile as string);
    const config = toRunConfig({ ...file, ...flags }, configFile as string | undefined);
    process.exitCode = await runMachine(config, createLog(config.logLevel));
  });

/** What was given as flags, by the names a configuration file uses too. */
function settingsOf(command: Command): RawSettings {
  const settings: RawSettings = {};
  for (const option of command.options) {
    const value = command.getOptionValue(option.attributeName());
    if (value !== undefined && option.long) settings[option.long.slice(2)] = value;
  }
  return settings;
}
