// Progress for slow steps: a live line with the elapsed time on a terminal, plain lines in a pipe.
// Plain JavaScript, because tools/setup.mjs runs before anything is installed.

const FRAMES = ['|', '/', '-', '\\'];
const FRAME_MILLISECONDS = 120;
const QUIET_SECONDS = 2; // a step that ends sooner is told in one line only

/** @param {number} sinceMilliseconds @returns {string} */
function elapsed(sinceMilliseconds) {
  return `${((Date.now() - sinceMilliseconds) / 1000).toFixed(1)} s`;
}

/**
 * Runs one named step and shows that it is under way: on a terminal a spinner with the seconds
 * passed, in a pipe one line when the step turns out slow and one when it is done.
 * @template T
 * @param {string} area who speaks: 'setup', 'build', 'quickstart'
 * @param {string} title what is being done
 * @param {(note: (text: string) => void) => Promise<T>} work may call note() to add a line
 * @returns {Promise<T>} what `work` returns; its failure passes through after the line is closed
 */
export async function step(area, title, work) {
  const started = Date.now();
  const live = process.stderr.isTTY === true;
  const line = `${area}: ${title}`;
  const clear = live ? '\r\x1b[K' : '';
  let frame = 0;
  let announced = false;
  const timer = setInterval(
    () => {
      if (live) {
        frame += 1;
        process.stderr.write(
          `${clear}${FRAMES[frame % FRAMES.length]} ${line} ${elapsed(started)}`,
        );
      } else if (!announced) {
        announced = true;
        process.stderr.write(`${line} ...\n`);
      }
    },
    live ? FRAME_MILLISECONDS : QUIET_SECONDS * 1000,
  );
  const note = (/** @type {string} */ text) => {
    process.stderr.write(`${clear}${area}: ${text}\n`);
  };
  try {
    const result = await work(note);
    process.stderr.write(`${clear}${line}: done in ${elapsed(started)}\n`);
    return result;
  } catch (error) {
    process.stderr.write(`${clear}${line}: failed after ${elapsed(started)}\n`);
    throw error;
  } finally {
    clearInterval(timer);
  }
}
