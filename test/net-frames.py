# net-frames.py INTERFACE: sends the frames that come in, and writes those of type 0x88b5 that come
# in there, each a line of hexadecimal. The first line that it writes is empty: it listens.
import select
import socket
import sys

PACKET_OUTGOING = 4
TYPE = 0x88B5  # for experiments, IEEE 802
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(TYPE))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
wire.bind((sys.argv[1], TYPE))
print(flush=True)
while True:
    ready, _, _ = select.select([wire, sys.stdin.buffer.raw], [], [])
    if wire in ready:
        try:
            frame, address = wire.recvfrom(1 << 17)
        except OSError:  # the interface went down, or away
            continue
        if address[2] != PACKET_OUTGOING:
            print(frame.hex(), flush=True)
    else:
        line = sys.stdin.buffer.raw.readline()
        if not line:
            break
        try:
            wire.send(bytes.fromhex(line.decode()))
        except OSError:
            pass
