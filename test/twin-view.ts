// Two guest memories written as one, for tests that hold two devices against each other: all that
// testing/driver.ts needs of a guest's memory.

/** A view of `one` whose writes reach `other` too. */
export class TwinView extends DataView<ArrayBuffer> {
  readonly #other: DataView;

  constructor(one: ArrayBuffer, other: ArrayBuffer) {
    super(one);
    this.#other = new DataView(other);
  }

  override setUint8(offset: number, value: number): void {
    super.setUint8(offset, value);
    this.#other.setUint8(offset, value);
  }

  override setUint16(offset: number, value: number, little: boolean): void {
    super.setUint16(offset, value, little);
    this.#other.setUint16(offset, value, little);
  }

  override setUint32(offset: number, value: number, little: boolean): void {
    super.setUint32(offset, value, little);
    this.#other.setUint32(offset, value, little);
  }

  override setBigUint64(offset: number, value: bigint, little: boolean): void {
    super.setBigUint64(offset, value, little);
    this.#other.setBigUint64(offset, value, little);
  }
}
