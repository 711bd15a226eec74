// What virtio 1.2 §5 leaves to each type of device, as the reference's transport asks for it.
import type { NetworkState } from './reference-answer.ts';
import type { Piece } from './reference-ring.ts';
import type { VirtioModel } from './reference-transport.ts';

/** Numbers of feature bits. */
export const INDIRECT_DESC = 28;
export const EVENT_IDX = 29;
export const VERSION_1 = 32;
export const COMMON_FEATURES = [INDIRECT_DESC, EVENT_IDX, VERSION_1];

/** What a request asks of the host. */
export interface Job {
  kind: number;
  offset: bigint;
  length: number;
  flags: number;
  ranges: { address: bigint; length: number }[];
}

/** What the device remembers of a request that the host has. */
export interface Flight {
  payload: number; // bytes that the host may have written at most
  status?: bigint; // where virtio-blk's status byte goes, or virtio-net's num_buffers
}

export interface DeviceType {
  id: number;
  queueCount: number; // at most
  queueSize: number;
  features: readonly number[];
  configSpace: Uint8Array; // without what is state
  serve(device: VirtioModel, queue: number, head: number, chain: Piece[]): void;
  finish(
    device: VirtioModel,
    queue: number,
    head: number,
    flight: Flight,
    result: number,
    written: number,
  ): void;
  /** Whether the field takes the value. */
  writeConfig(device: VirtioModel, offset: number, width: number, value: number): boolean;
  restart(device: VirtioModel): void;
  agreed(device: VirtioModel): void; // FEATURES_OK was granted
  network?: NetworkType;
}

/** What only a network device asks of its transport. */
export interface NetworkType {
  initial: NetworkState;
  /** How many queues were agreed on. */
  queueCount(device: VirtioModel): number;
  /** Whether each feature that was accepted has those that it requires. */
  featuresMatch(device: VirtioModel): boolean;
  configSpace(device: VirtioModel): Uint8Array;
  /** Whether its chains are frames: the host asks for such a doorbell by notify() alone. */
  isOfFrames(device: VirtioModel, queue: number): boolean;
  /** Whether the kernel serves the queue. */
  isKernels(device: VirtioModel, queue: number): boolean;
  /** Whether the queue's buffers are for frames to be received. */
  isReceive(device: VirtioModel, queue: number): boolean;
  /** A buffer of a live receive queue is completed. */
  receive(device: VirtioModel, queue: number, head: number, result: number, bytes: number): void;
  input(device: VirtioModel, bytes: Uint8Array): void;
}
