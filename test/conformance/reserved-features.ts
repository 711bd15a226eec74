// Virtio 1.2 §6: the feature bits of no device in particular.
import * as assert from 'uvu/assert';
import type { BlkConfig } from '../../host/device-config.ts';
import { BLK_S_IOERR, BLK_T_FLUSH, BLK_T_GET_ID, blkHeader } from '../../testing/block.ts';
import {
  ACKNOWLEDGE,
  DEVICE_NEEDS_RESET,
  DRIVER,
  DRIVER_OK,
  F_INDIRECT_DESC,
  F_VERSION_1,
  FEATURES_OK,
  REG,
  RUNNING,
} from '../../testing/driver.ts';
import { DATA } from '../../testing/queue.ts';
import { kick } from '../../testing/requests.ts';
import { blkDevice, rngDevice } from '../fixtures.ts';
import { disk, into, offer, RAM_END, submit } from './setup.ts';
import { IN_ORDER, LEGACY, OWN_READING, type Section } from './statement.ts';

const F_SR_IOV = 1n << 37n;
const NO_PLATFORM =
  'VIRTIO_F_ACCESS_PLATFORM is not offered: devices see the memory that drivers see';
const NO_ORDER = 'VIRTIO_F_ORDER_PLATFORM is not offered';
const NO_PCI = 'there is no PCI';

const configurations: Partial<BlkConfig>[] = [{}, { readOnly: true }, { queueCount: 8 }];
const everyOffer = () =>
  [...configurations.map((config) => blkDevice(config)), rngDevice()].map(({ driver }) =>
    driver.offeredFeatures(),
  );

/** What becomes of a driver that accepts exactly these features. */
function statusWith(features: bigint): number {
  const { driver } = blkDevice();
  driver.set(REG.Status, ACKNOWLEDGE);
  driver.set(REG.Status, ACKNOWLEDGE | DRIVER);
  driver.acceptFeatures(features);
  return driver.addStatus(FEATURES_OK);
}

export const RESERVED_FEATURES: Section[] = [
  {
    number: '6.1',
    title: 'Reserved feature bits',
    side: 'driver',
    rows: [
      {
        level: 'MUST',
        says: 'Accepts VERSION_1 where it is offered.',
        answer: 'FEATURES_OK does not stick',
        test() {
          assert.is(statusWith(F_INDIRECT_DESC), ACKNOWLEDGE | DRIVER);
        },
      },
      { level: 'MAY', says: 'Gives up where it is not.', unseen: OWN_READING },
      {
        level: 'SHOULD',
        says: 'Accepts ACCESS_PLATFORM where it is offered.',
        notApplicable: NO_PLATFORM,
      },
      {
        level: 'MUST',
        says: 'Then turns the IOMMU off, or has it translate.',
        notApplicable: NO_PLATFORM,
      },
      {
        level: 'MUST',
        says: 'Without ACCESS_PLATFORM, hands the device nothing but physical addresses.',
        answer: 'what lies outside RAM is not touched: length 0, an I/O error, or NEEDS_RESET',
        test() {
          const device = disk();
          offer(device, [blkHeader(device.memory, DATA, BLK_T_FLUSH), into(1, RAM_END)]);
          kick(device.cage, 0);
          assert.is(device.queue.takeUsed()?.length, 0);
          assert.is(submit(device, BLK_T_GET_ID, [into(20, RAM_END)]).status, BLK_S_IOERR);
          device.driver.negotiate();
          device.queue.availRing = RAM_END;
          device.driver.configureQueue(device.queue);
          device.driver.set(REG.QueueReady, 1);
          device.driver.addStatus(DRIVER_OK);
          device.cage.notify(0);
          assert.is(device.driver.get(REG.Status), RUNNING | DEVICE_NEEDS_RESET);
        },
      },
      {
        level: 'SHOULD',
        says: 'Accepts RING_PACKED where it is offered.',
        notApplicable: 'VIRTIO_F_RING_PACKED is not offered',
      },
      {
        level: 'SHOULD',
        says: 'Accepts ORDER_PLATFORM where it is offered.',
        notApplicable: NO_ORDER,
      },
      {
        level: 'MUST',
        says: 'With ORDER_PLATFORM, uses the barriers that hardware needs.',
        notApplicable: NO_ORDER,
      },
      { level: 'MAY', says: 'With SR_IOV, enables virtual functions.', notApplicable: NO_PCI },
      {
        level: 'MUST NOT',
        says: 'Accepts no SR_IOV of a device that is not PCI.',
        answer: 'FEATURES_OK does not stick',
        test() {
          assert.is(statusWith(F_VERSION_1 | F_SR_IOV), ACKNOWLEDGE | DRIVER);
        },
      },
      {
        level: 'MUST',
        says: 'Accepts SR_IOV before it enables virtual functions.',
        notApplicable: NO_PCI,
      },
      {
        level: 'MAY',
        says: 'Enables them again after a reset without accepting it again.',
        notApplicable: NO_PCI,
      },
      {
        level: 'SHOULD',
        says: 'Accepts NOTIF_CONFIG_DATA where it is offered.',
        notApplicable: 'VIRTIO_F_NOTIF_CONFIG_DATA is not offered',
      },
    ],
  },
  {
    number: '6.2',
    title: 'Reserved feature bits',
    side: 'device',
    rows: [
      {
        level: 'MUST',
        says: 'Offers VERSION_1.',
        test() {
          for (const offered of everyOffer()) assert.is(offered & F_VERSION_1, F_VERSION_1);
        },
      },
      {
        level: 'MAY',
        says: 'Gives up where it is not accepted.',
        test() {
          assert.is(statusWith(0n), ACKNOWLEDGE | DRIVER);
          assert.is(statusWith(F_VERSION_1), ACKNOWLEDGE | DRIVER | FEATURES_OK);
        },
      },
      {
        level: 'SHOULD',
        says: 'Offers ACCESS_PLATFORM if it sees other addresses than a driver, or not all memory.',
        notApplicable: NO_PLATFORM,
      },
      {
        level: 'MAY',
        says: 'Gives up where ACCESS_PLATFORM is not accepted.',
        notApplicable: NO_PLATFORM,
      },
      { level: 'MUST', says: 'With IN_ORDER, uses buffers in order.', notApplicable: IN_ORDER },
      {
        level: 'MAY',
        says: 'Gives up where ORDER_PLATFORM is offered and not accepted.',
        notApplicable: NO_ORDER,
      },
      {
        level: 'MAY',
        says: 'Gets slower where ORDER_PLATFORM is offered and not accepted.',
        notApplicable: NO_ORDER,
      },
      {
        level: 'SHOULD',
        says: 'As a PCI card, offers ACCESS_PLATFORM and ORDER_PLATFORM.',
        notApplicable: NO_PCI,
      },
      {
        level: 'SHOULD',
        says: 'Offers SR_IOV if it is a PCI device with that capability.',
        notApplicable: NO_PCI,
      },
      {
        level: 'MUST NOT',
        says: 'Else does not offer SR_IOV.',
        test() {
          for (const offered of everyOffer()) assert.is(offered & F_SR_IOV, 0n);
        },
      },
    ],
  },
  {
    number: '6.3',
    title: 'Reserved feature bits (legacy)',
    side: 'both',
    rows: [
      {
        level: 'MAY',
        says: 'A transitional device offers NOTIFY_ON_EMPTY.',
        notApplicable: LEGACY,
      },
      {
        level: 'MUST',
        says: 'A transitional device offers ANY_LAYOUT, and a transitional driver accepts it.',
        notApplicable: LEGACY,
      },
      {
        level: 'SHOULD NOT',
        says: 'Bit 30 is not negotiated.',
        test() {
          for (const offered of everyOffer()) {
            for (const bit of [24n, 27n, 30n]) assert.is(offered & (1n << bit), 0n);
          }
        },
      },
    ],
  },
];
