# Runs a command on a pseudo-terminal: cell-terminal.py STEPS COMMAND... where STEPS are separated by commas:
#   see:TEXT        reads until the text has come
#   type:KEYS       types them ('^A' is Ctrl-A, one key at a time)
#   deaf            reads nothing any more, and waits until the terminal is full
#   hear            reads again
#   kill:SIGNAL     sends it to the command
#   cell:SIGNAL     sends it to the command's child, the cell
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


def is_raw(fd):
    return not termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


def cell_of(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as children:
        return int(children.read().split()[0])


def runs(pid):
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Terminal:
    def __init__(self, command):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen, self.raw, self.deaf = b"", None, False
        self.deadline = time.time() + LIMIT_SECONDS
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for fd in (0, 1, 2):
                os.dup2(self.slave, fd)
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
        for key in keys.replace("^A", "\x01"):
            os.write(self.master, key.encode("latin1"))
            time.sleep(0.05)

    def full(self):
        self.deaf = True
        time.sleep(0.7)

    def step(self, step):
        word, _, rest = step.partition(":")
        if word == "see":
            self.see(rest)
        elif word == "type":
            self.type(rest)
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
    terminal = Terminal(sys.argv[2:])
    for step in sys.argv[1].split(","):
        terminal.step(step)
    terminal.end()


main()
