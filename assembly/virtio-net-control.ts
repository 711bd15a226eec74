// The control queue of a network device: every command is answered here and now.
// Virtio 1.2 §5.1.6.5. Receive modes, address tables and VLAN filters are taken and checked, but
// nothing is filtered by them: they tell which frames the driver can do without, and it copes with
// more (§5.1.6.5.1.1, §5.1.6.5.3). Left out: RSS, hash reports, notification coalescing.
//
// Readable: +0 class u8  +1 command u8  +2 data. Writable: +0 ack u8.
import { EFFECT_SETUP, INCIDENT_MEMORY, INCIDENT_REQUEST } from "./abi";
import { HEADER } from "./layout";
import { incident } from "./registers";
import { negotiated, virtio } from "./virtio";
import {
  MAC_BYTES, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ,
  macValid, negotiatedOffloads, netQueuePairsMax, setMac, virtioNet,
} from "./virtio-net";
import { chainRead, chainWrite, virtqPush, walked } from "./virtq";

const VIRTIO_NET_CTRL_RX: u32 = 0; // class
const VIRTIO_NET_CTRL_RX_ALLMULTI: u32 = 1; // commands, from PROMISC = 0 on
const VIRTIO_NET_CTRL_RX_NOBCAST: u32 = 5;
const VIRTIO_NET_CTRL_MAC: u32 = 1;
const VIRTIO_NET_CTRL_MAC_TABLE_SET: u32 = 0;
const VIRTIO_NET_CTRL_MAC_ADDR_SET: u32 = 1;
const VIRTIO_NET_CTRL_VLAN: u32 = 2;
const VIRTIO_NET_CTRL_VLAN_DEL: u32 = 1; // ADD = 0
const VIRTIO_NET_CTRL_ANNOUNCE: u32 = 3;
const VIRTIO_NET_CTRL_ANNOUNCE_ACK: u32 = 0;
const VIRTIO_NET_CTRL_MQ: u32 = 4;
const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: u32 = 0;
const VIRTIO_NET_CTRL_GUEST_OFFLOADS: u32 = 5;
const VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: u32 = 0;

const VIRTIO_NET_OK: u32 = 0;
const VIRTIO_NET_ERR: u32 = 1;

const COMMAND_BYTES: u32 = 2;
const DATA: usize = HEADER + 8; // of a command, copied in: eight bytes at most
const COMMAND_DATA_MAX: u64 = 1 << 20; // of a table set: more addresses than there is use for
const VLAN_COUNT: u32 = 4096;

/** Carries the walked command out and answers it. */
export function netControl(queueIndex: u32, head: u32): u32 {
  const chain = walked();
  if (chain.writableBytes == 0) return incident(INCIDENT_REQUEST) | virtqPush(queueIndex, head, 0);
  // Every command that was obeyed may have changed what the host carries out.
  const obeyed = obey();
  const effects = obeyed ? EFFECT_SETUP : incident(INCIDENT_REQUEST);
  store<u8>(HEADER, <u8>(obeyed ? VIRTIO_NET_OK : VIRTIO_NET_ERR));
  // The answer is the first of the writable bytes (§5.1.6.5).
  if (chainWrite(0, HEADER, 1)) return effects | virtqPush(queueIndex, head, 1);
  return effects | incident(INCIDENT_MEMORY) | virtqPush(queueIndex, head, 0);
}

// False: a command that is unknown, not negotiated, malformed or outside guest RAM.
function obey(): bool {
  const bytes = walked().readableBytes;
  if (bytes < COMMAND_BYTES || !chainRead(0, HEADER, COMMAND_BYTES)) return false;
  const command: u32 = load<u8>(HEADER, 1);
  const dataBytes = bytes - COMMAND_BYTES;
  switch (<u32>load<u8>(HEADER)) {
    case VIRTIO_NET_CTRL_RX: return setReceiveMode(command, dataBytes);
    case VIRTIO_NET_CTRL_MAC:
      return command == VIRTIO_NET_CTRL_MAC_TABLE_SET
        ? negotiated(VIRTIO_NET_F_CTRL_RX) && tablesWhole(dataBytes)
        : command == VIRTIO_NET_CTRL_MAC_ADDR_SET && setAddress(dataBytes);
    case VIRTIO_NET_CTRL_VLAN:
      return negotiated(VIRTIO_NET_F_CTRL_VLAN) && command <= VIRTIO_NET_CTRL_VLAN_DEL &&
        data(dataBytes, 2) && <u32>load<u16>(DATA) < VLAN_COUNT;
    case VIRTIO_NET_CTRL_ANNOUNCE: return acknowledge(command, dataBytes);
    case VIRTIO_NET_CTRL_MQ: return setQueuePairs(command, dataBytes);
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS: return setOffloads(command, dataBytes);
    default: return false;
  }
}

// Copies a command's data in, which must be just so long.
function data(dataBytes: u64, wanted: u32): bool {
  return dataBytes == wanted && chainRead(COMMAND_BYTES, DATA, wanted);
}

function setReceiveMode(command: u32, dataBytes: u64): bool {
  const extra = command > VIRTIO_NET_CTRL_RX_ALLMULTI;
  if (command > VIRTIO_NET_CTRL_RX_NOBCAST) return false;
  if (!negotiated(extra ? VIRTIO_NET_F_CTRL_RX_EXTRA : VIRTIO_NET_F_CTRL_RX)) return false;
  return data(dataBytes, 1) && load<u8>(DATA) <= 1;
}

// Two tables, of this address's and of groups' addresses, each behind the number of its entries.
function tablesWhole(dataBytes: u64): bool {
  let at: u64 = COMMAND_BYTES;
  const end = at + dataBytes;
  for (let table = 0; table < 2; table++) {
    if (end - at < 4 || end > COMMAND_DATA_MAX || !chainRead(<u32>at, DATA, 4)) return false;
    at += 4 + <u64>load<u32>(DATA) * MAC_BYTES;
    if (at > end) return false;
  }
  return at == end;
}

function setAddress(dataBytes: u64): bool {
  if (!negotiated(VIRTIO_NET_F_CTRL_MAC_ADDR) || !data(dataBytes, MAC_BYTES)) return false;
  if (!macValid(DATA)) return false;
  setMac(DATA);
  virtio().configGeneration++; // the driver's own change: no interrupt tells it of that
  return true;
}

function acknowledge(command: u32, dataBytes: u64): bool {
  if (command != VIRTIO_NET_CTRL_ANNOUNCE_ACK || dataBytes != 0) return false;
  if (!negotiated(VIRTIO_NET_F_GUEST_ANNOUNCE)) return false;
  virtioNet().announce = 0;
  virtio().configGeneration++;
  return true;
}

function setQueuePairs(command: u32, dataBytes: u64): bool {
  if (command != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !negotiated(VIRTIO_NET_F_MQ)) return false;
  if (!data(dataBytes, 2)) return false;
  const pairs = load<u16>(DATA);
  if (pairs == 0 || pairs > netQueuePairsMax()) return false;
  virtioNet().queuePairs = pairs;
  return true;
}

function setOffloads(command: u32, dataBytes: u64): bool {
  if (command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) return false;
  if (!negotiated(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || !data(dataBytes, 8)) return false;
  const offloads = load<u64>(DATA);
  if (offloads & ~negotiatedOffloads()) return false;
  virtioNet().offloads = offloads;
  return true;
}
