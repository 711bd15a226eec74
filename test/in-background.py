# Plays a shell which starts a command as a background job on a terminal: in-background.py COMMAND...
# waits until it stops, brings it to the foreground, leaves it by Ctrl-A x, and prints what it saw.
# With --stay before the command it goes on in the background instead, while something is typed, and
# is ended by SIGTERM.
import os
import pty
import select
import signal
import sys
import termios
import time

LIMIT_SECONDS = 15
SETTLE_SECONDS = 0.5


def is_raw(fd):
    return not termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


def wait_until(condition):
    deadline = time.time() + LIMIT_SECONDS
    while not condition():
        if time.time() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_stopped(pid):
    with open("/proc/%d/stat" % pid) as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] == "T"


def runs_guest(pid):
    folder = "/proc/%d/task" % pid
    try:
        return any("vcpu" in open("%s/%s/comm" % (folder, tid)).read()
                   for tid in os.listdir(folder))
    except OSError:
        return False  # a thread that ended in between


def shell(slave, command, ready, stay):
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
    if not stay:
        os.tcsetpgrp(slave, job)
    os.kill(job, signal.SIGCONT)
    raw = wait_until(lambda: is_raw(slave) or stay and runs_guest(job)) and is_raw(slave)
    print("stopped=%s raw-behind-the-shell=%s raw=%s" % (stopped, raw_before, raw), file=sys.stderr)
    os.write(ready, b".")
    if stay:
        # The terminal has what was typed; a command that reads it is stopped at once.
        wait_until(lambda: select.select([slave], [], [], 0)[0])
        time.sleep(SETTLE_SECONDS)
        print("typed: stopped=%s" % is_stopped(job), file=sys.stderr)
        os.kill(job, signal.SIGTERM)
        os.kill(job, signal.SIGCONT)
    ended = wait_until(changed)
    if not ended:
        os.kill(job, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status[-1]) if ended else None
    print("status=%s restored=%s" % (code, not is_raw(slave)), file=sys.stderr)


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
        stay = sys.argv[1] == "--stay"
        shell(terminal, sys.argv[2 if stay else 1:], ready, stay)
        os._exit(0)
    os.read(seen, 1)
    os.write(master, b"\x01x\n")
    os.waitpid(player, 0)


main()
