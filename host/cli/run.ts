// `faraday run`: boot one guest and stay with it. The default verb.
import { Command } from 'commander';
import { toRunConfig } from '../config.ts';
import { createLog, printError } from '../log.ts';
import { addConfineOptions } from './confine-options.ts';
import { addMachineOptions, settingsOf } from './machine-options.ts';

export const runCommand = addConfineOptions(addMachineOptions(new Command('run')))
  .description('boot a guest and attach its console to this terminal')
  .option('--net-backend <backend>', 'none (default: none)')
  .option('--engine <engine>', 'cell or v8 (default: cell)')
  .option('--detach', 'leave the guest running in a process of its own')
  .option('--report <file>', 'write what happened as JSON')
  .option('--record <file>', "write every call into a device for 'faraday replay'; engine v8")
  .option('--log-level <level>', 'error, warn, info or debug (default: warn)')
  .action(async (_options: unknown, command: Command) => {
    const config = toRunConfig(...settingsOf(command));
    const log = createLog(config.logLevel);
    const { runMachine, startMachine } = await import('../machine.ts');
    if (!config.detach) process.exitCode = await runMachine(config, log);
    else printError(`faraday: the guest runs on in process ${await startMachine(config, log)}\n`);
  });
