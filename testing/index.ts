// 'faraday/testing': unit tests of device models, and of what a virtio driver may expect of them,
// on any machine with Node or a browser. It runs the release core. docs/testing-library.md is its
// page, examples/ its use. Nothing here names Node: testing/node.ts does.

/** Every number that the core and its host share: kinds, effects, results, record offsets. */
export * as abi from '../assembly/abi.ts';
export { AccessLog } from '../host/access-log.ts';
export {
  Cage,
  type CoreExports,
  linkCore,
} from '../host/cage.ts';
export {
  type BlkConfig,
  encodeBlkConfig,
  encodeNetConfig,
  encodeRngConfig,
  NET_OFFLOADS,
  NET_OFFLOADS_ALL,
  type NetConfig,
} from '../host/device-config.ts';
export { type ErrorCode, FaradayError } from '../host/errors.ts';
export { type AccessKind, type AccessObserver, GuestMemory } from '../host/guest-memory.ts';
export { INCIDENT_NAMES, type IncidentName } from '../host/incident-names.ts';
export { type Access, parseAccesses } from '../host/replay/accesses.ts';
export { accessesDuring } from './accesses.ts';
export * from './block.ts';
export * from './core.ts';
export * from './driver.ts';
export * from './executors.ts';
export * from './fuzz.ts';
export * from './names.ts';
export * from './net.ts';
export * from './net-host.ts';
export * from './queue.ts';
export { type Random, randomFrom } from './random.ts';
export {
  type NetworkState,
  type ReferenceAnswer,
  ReferenceDevice,
  type ReferenceRecord,
} from './reference.ts';
export * from './requests.ts';
