# Runs a command on a pseudo-terminal: cell-terminal.py STEPS COMMAND... where STEPS are separated by commas:
#   see:TEXT        reads until the text has come
#   type:KEYS       types them ('^A' is Ctrl-A, as are '^C' and '^\'; one key at a time)
#   deaf            reads nothing any more, and waits until the terminal is full
#   hear            reads again
#   kill:SIGNAL     sends it to the command
#   cell:SIGNAL     sends it to the command's child, the cell
#   over            waits until the guest is: its vCPUs are gone
# With 'piped' as the first step, standard output is a pipe that is full and that nobody reads.
# Then waits for the end of the command and of its child, and prints what was seen and how terminal
# and command are.
import os
import pty
import select
import signal
import sys
import termios
import time

LIMIT_SECONDS = 15
FUTEX = 202  # x86-64


def is_raw(fd):
    return not termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


def cell_of(pid):
    # A child of any of its threads.
    for thread in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/children" % (pid, thread)) as children:
            found = children.read().split()
            if found:
                return int(found[0])
    raise IndexError("no child")


def call_of(task):
    with open(task + "/syscall") as call:
        return call.read().split()[0]


def waiting_vcpus(pid):
    """For each vCPU whether it waits for a word to change, as it does for ever after its end."""
    folder = "/proc/%d/task" % pid
    waiting = []
    for tid in os.listdir(folder):
        task = "%s/%s" % (folder, tid)
        with open(task + "/comm") as name:
            if name.read().startswith("vcpu"):
                waiting.append(call_of(task) == str(FUTEX))
    return waiting


def full_pipe():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    return reader, writer


def runs(pid):
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Terminal:
    def __init__(self, command, piped):
        # The reader's end stays open here, so that nothing is ever written and nothing fails.
        self.reader, output = full_pipe() if piped else (None, None)
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen, self.raw, self.deaf = b"", None, False
        self.deadline = time.time() + LIMIT_SECONDS
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for fd in (0, 1, 2):
                os.dup2(output if piped and fd == 1 else self.slave, fd)
            os.execv(command[0], command)
        self.child = None

    def late(self):
        return time.time() > self.deadline

    def read(self):
        if select.select([self.master], [], [], 0.02)[0]:
            self.seen += os.read(self.master, 4096)

    def see(self, text):
        while text.encode() not in self.seen and not self.late():
            self.read()
        self.raw = is_raw(self.slave)
        if "node" in os.readlink("/proc/%d/exe" % self.pid):
            self.child = cell_of(self.pid)

    def type(self, keys):
        for name, key in (("^A", "\x01"), ("^C", "\x03"), ("^\\", "\x1c")):
            keys = keys.replace(name, key)
        for key in keys:
            os.write(self.master, key.encode("latin1"))
            time.sleep(0.05)

    def full(self):
        self.deaf = True
        time.sleep(0.7)

    def over(self):
        ran, times = False, 0
        while not self.late() and times < 5:  # once is not enough: a lock is a wait too
            waiting = ran and waiting_vcpus(self.pid)
            times = times + 1 if waiting and all(waiting) else 0
            ran = ran or is_raw(self.slave)
            time.sleep(0.02)
        self.raw = is_raw(self.slave)

    def step(self, step):
        word, _, rest = step.partition(":")
        if word == "see":
            self.see(rest)
        elif word == "type":
            self.type(rest)
        elif word == "over":
            self.over()
        elif word == "deaf":
            self.full()
        elif word == "hear":
            self.deaf = False
        elif word == "kill":
            os.kill(self.pid, getattr(signal, rest))
        elif word == "cell":
            os.kill(self.child, getattr(signal, rest))

    def end(self):
        status = None
        while status is None and not self.late():
            if self.deaf:
                time.sleep(0.02)
            else:
                self.read()
            done, code = os.waitpid(self.pid, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(code)
        while self.child and runs(self.child) and not self.late():
            time.sleep(0.02)
        alive = bool(self.child and runs(self.child))
        restored = termios.tcgetattr(self.slave) == self.before
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 4096)
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
        if alive:
            os.kill(self.child, signal.SIGKILL)
        sys.stdout.buffer.write(self.seen)
        print("\nstatus=%s raw=%s restored=%s alive=%s" % (status, self.raw, restored, alive))


def main():
    steps = sys.argv[1].split(",")
    terminal = Terminal(sys.argv[2:], steps[0] == "piped")
    try:
        for step in steps:
            terminal.step(step)
        terminal.end()
    except BaseException:
        os.killpg(terminal.pid, signal.SIGKILL)  # the command leads a session; its child is in it
        raise


main()
