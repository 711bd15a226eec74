// `faraday image`: machines composed once, to be started without Node.
import { realpathSync } from 'node:fs';
import { Command } from 'commander';
import { cellProgram } from '../cell-program.ts';
import { toRunConfig } from '../config.ts';
import { FaradayError } from '../errors.ts';
import { printOutput } from '../log.ts';
import { addMachineOptions, settingsOf } from './machine-options.ts';

const composeCommand = addMachineOptions(new Command('compose'))
  .description('write a machine that build/faraday-cell starts without Node')
  .option('--out <folder>', 'where to write it: FOLDER/machine')
  .action(async (flags: { out?: string }, command: Command) => {
    const { out } = flags;
    if (!out) {
      throw new FaradayError('bad-usage', '--out is missing; name a directory for the machine');
    }
    // What a configuration file says of the run is not for here: only a cell starts such an image.
    const [{ out: _out, detach: _detach, ...settings }, configFile] = settingsOf(command);
    const config = toRunConfig({ ...settings, engine: 'cell' }, configFile);
    const { composeImage } = await import('../machine.ts');
    const { prepareFolder, writeMachine } = await import('../machine-file.ts');
    const image = await composeImage(config); // first: a mistake leaves no folder behind
    prepareFolder(out);
    writeMachine(out, image);
    printOutput(`composed; start it with: ${cellProgram()} ${realpathSync(out)}\n`);
  });

export const imageCommand = new Command('image')
  .description('compose machines to be started without Node')
  .helpOption('-h, --help', 'show help')
  .helpCommand(false)
  .addCommand(composeCommand);
