# Plays a shell which starts a command as a background job on a terminal: in-background.py COMMAND...
# waits until it stops, brings it to the foreground, leaves it by Ctrl-A x, and prints what it saw.
import os
import pty
import signal
import sys
import termios
import time

LIMIT_SECONDS = 15


def is_raw(fd):
    return not termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


def wait_until(condition):
    deadline = time.time() + LIMIT_SECONDS
    while not condition():
        if time.time() > deadline:
            return False
        time.sleep(0.05)
    return True


def shell(slave, command, ready):
    # The shell's own process group has the terminal; it may hand it on without being stopped.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(command[0], command)
    status = []

    def changed():
        pid, code = os.waitpid(job, os.WNOHANG | os.WUNTRACED)
        if pid:
            status.append(code)
        return pid

    stopped = wait_until(changed) and os.WIFSTOPPED(status[-1])
    raw_before = is_raw(slave)
    os.tcsetpgrp(slave, job)
    os.kill(job, signal.SIGCONT)
    raw = wait_until(lambda: is_raw(slave))
    print("stopped=%s raw-behind-the-shell=%s raw=%s" % (stopped, raw_before, raw), file=sys.stderr)
    os.write(ready, b".")
    ended = wait_until(changed)
    if not ended:
        os.kill(job, signal.SIGKILL)
    print("status=%s restored=%s" % (status[-1] if ended else None, not is_raw(slave)),
          file=sys.stderr)


def main():
    master, slave = pty.openpty()
    seen, ready = os.pipe()
    player = os.fork()
    if player == 0:
        os.setsid()
        os.close(master)
        terminal = os.open(os.ttyname(slave), os.O_RDWR)  # now the controlling one
        for fd in (0, 1):
            os.dup2(terminal, fd)
        shell(terminal, sys.argv[1:], ready)
        os._exit(0)
    os.read(seen, 1)
    os.write(master, b"\x01x")
    os.waitpid(player, 0)


main()
