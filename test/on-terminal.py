# Runs a command on a pseudo-terminal: on-terminal.py KEYS COMMAND... types KEYS after the first output (or
# sends the signal they name; with 'child:' before it to the command's child), then prints what was seen and how command and terminal ended.
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


def child_of(pid):
    # Of any of its threads.
    for thread in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/children" % (pid, thread)) as children:
            found = children.read().split()
            if found:
                return int(found[0])


def type_slowly(fd, keys):
    # One key at a time, as people do: what stands before 'leave' is answered before it.
    for key in keys:
        os.write(fd, key.encode("latin1"))
        time.sleep(0.1)


def main():
    keys, command = sys.argv[1], sys.argv[2:]
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for fd in (0, 1, 2):
            os.dup2(slave, fd)
        os.execv(command[0], command)
    seen, raw, deadline, status = b"", None, time.time() + LIMIT_SECONDS, None
    while status is None and time.time() < deadline:
        if select.select([master], [], [], 0.05)[0]:
            seen += os.read(master, 4096)
            if raw is None:
                raw = is_raw(slave)
                if keys.startswith("child:"):
                    os.kill(child_of(pid), getattr(signal, keys[6:]))
                elif keys.startswith("SIG"):
                    os.kill(pid, getattr(signal, keys))
                else:
                    type_slowly(master, keys)
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
    while select.select([master], [], [], 0)[0]:
        seen += os.read(master, 4096)
    if status is None:
        os.kill(pid, signal.SIGKILL)
    restored = termios.tcgetattr(slave) == before
    sys.stdout.buffer.write(seen)
    sys.stdout.buffer.write(b"status=%s raw=%s restored=%s\n" % (
        str(status).encode(), str(raw).encode(), str(restored).encode()))


main()
