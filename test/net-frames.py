# net-frames.py INTERFACE [partial]: sends the frames that come in, and writes those of type 0x88b5 that come
# in there, each a line of hexadecimal. The first line that it writes is empty: it listens. 'partial':
# whoever takes a frame from the interface shall compute its checksum, where it said that it can.
import select
import socket
import sys

PACKET_OUTGOING = 4
SOL_PACKET = 263
PACKET_VNET_HDR = 15
NEEDS_CHECKSUM = bytes([1, 0, 0, 0, 0, 0, 34, 0, 16, 0])  # from byte 34 on, at byte 16 of that
TYPE = 0x88B5  # for experiments, IEEE 802
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(TYPE))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
wire.bind((sys.argv[1], TYPE))
sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
partial = sys.argv[2:] == ["partial"]
if partial:
    sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
sender.bind((sys.argv[1], 0))
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
            sender.send((NEEDS_CHECKSUM if partial else b"") + bytes.fromhex(line.decode()))
        except OSError:
            pass
