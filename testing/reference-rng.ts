// The entropy device's side of the reference: virtio 1.2 §5.4.
import {
  ENTROPY_BYTES_MAX,
  INCIDENT_REQUEST,
  REQUEST_KIND_ENTROPY,
  RESULT_OK,
  RNG_CONFIG_QUEUE_SIZE,
} from '../assembly/abi.ts';
import { cut, totalBytes } from './reference-ring.ts';
import { COMMON_FEATURES, type DeviceType } from './reference-type.ts';

/** The device type, from the configuration that init() takes. */
export function rngType(config: Uint8Array): DeviceType {
  return {
    id: 4,
    queueCount: 1,
    queueSize: config[RNG_CONFIG_QUEUE_SIZE] + 256 * config[RNG_CONFIG_QUEUE_SIZE + 1],
    features: COMMON_FEATURES,
    configSpace: new Uint8Array(0),
    serve(device, queue, head, chain) {
      const bytes = Math.min(totalBytes(chain), ENTROPY_BYTES_MAX);
      if (bytes === 0 || chain.some((piece) => !piece.write)) {
        device.ledger.blame(INCIDENT_REQUEST);
        device.giveBack(queue, head, 0);
        return;
      }
      const ranges = cut(chain, 0, bytes);
      const job = { kind: REQUEST_KIND_ENTROPY, offset: 0n, length: bytes, flags: 0, ranges };
      device.submit(queue, head, job, { payload: bytes });
    },
    finish(device, queue, head, _flight, result, written) {
      device.giveBack(queue, head, result === RESULT_OK ? written : 0);
    },
    writeConfig: () => false,
    restart: () => {},
    agreed: () => {},
  };
}
