# The world that an attacked cell can reach for: a process of its own that listens on TCP, UDP, a
# Unix socket at the path given and an abstract one, and takes whatever comes. Says where, then
# stays until its input ends.
#
#   victim.py PATH
#   victim.py --send-descriptor [HEX]    sends HEX and then descriptor 0 over the socket that is 3
import array
import json
import os
import selectors
import socket
import sys


def send_descriptor(before):
    control = socket.socket(fileno=3)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
    try:
        if before:
            control.send(bytes.fromhex(before))
        control.sendmsg([b"x"], rights)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the cell was ended for asking


def listen(path):
    abstract = f"faraday-victim-{os.getpid()}"
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    named = socket.socket(socket.AF_UNIX)
    named.bind(path)
    nameless = socket.socket(socket.AF_UNIX)
    nameless.bind("\0" + abstract)
    selector = selectors.DefaultSelector()
    for server in (tcp, named, nameless):
        server.listen(64)
        selector.register(server, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    where = {"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1], "abstract": abstract}
    print(json.dumps(where), flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return
            key.fileobj.accept()[0].close()


if sys.argv[1] == "--send-descriptor":
    send_descriptor(sys.argv[2] if len(sys.argv) > 2 else "")
else:
    listen(sys.argv[1])
