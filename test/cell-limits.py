# Runs a command under limits: cell-limits.py LIMIT... -- COMMAND..., where a LIMIT is
#   files=N         descriptors
#   space=N         bytes of address space
#   tasks=N         threads and processes of its user; as user 65534, whom the limit concerns
#   no-io-uring     io_uring_setup fails with EPERM, by a seccomp filter
import ctypes
import os
import resource
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
NR_IO_URING_SETUP = 425
RET_ALLOW, RET_EPERM = 0x7FFF0000, 0x00050001
UNPRIVILEGED = 65534


def refuse_io_uring():
    # ld [0]; jeq io_uring_setup, 0, 1; ret EPERM; ret ALLOW
    rows = [(0x20, 0, 0, 0), (0x15, 0, 1, NR_IO_URING_SETUP), (0x06, 0, 0, RET_EPERM),
            (0x06, 0, 0, RET_ALLOW)]
    program = b"".join(struct.pack("HBBI", *row) for row in rows)
    buffer = ctypes.create_string_buffer(program)
    filters = struct.pack("HxxxxxxP", len(rows), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filters, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def limit(word):
    name, _, value = word.partition("=")
    if name == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(value), int(value)))
    elif name == "space":
        resource.setrlimit(resource.RLIMIT_AS, (int(value), int(value)))
    elif name == "tasks":
        resource.setrlimit(resource.RLIMIT_NPROC, (int(value), int(value)))
        os.setgroups([])
        os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
        os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    elif name == "no-io-uring":
        refuse_io_uring()


split = sys.argv.index("--")
command = sys.argv[split + 1:]
for fd in range(3, 32):
    try:
        os.set_inheritable(fd, True)
    except OSError:
        pass
for word in sys.argv[1:split]:
    limit(word)
os.execv(command[0], command)
