// What a row of the conformance table is: one normative statement of virtio 1.2 in our own words,
// and the test that shows it, or the reason why there is none.

export type Level = 'MUST' | 'MUST NOT' | 'SHOULD' | 'SHOULD NOT' | 'MAY';

/** Whom a numbered section of requirements binds. */
export type Side = 'device' | 'driver' | 'both';

interface Words {
  level: Level;
  says: string;
  // What a driver gets that breaks the statement, of a driver's that a device can meet.
  answer?: string;
}

/** How a statement stands; a row has exactly one of these. */
export type Outcome =
  // Shown on the release core. `also` names a test of the part that the host plays, 'FILE: NAME',
  // where NAME may be a part of the test's name.
  | { test: () => void; also?: string }
  | { notApplicable: string } // concerns what Faraday has not or does not do
  | { unseen: string } // binds a driver in a way that no device can see
  | { gap: string };

export type Row = Words & Outcome;

export interface Section {
  number: string;
  title: string;
  side: Side;
  rows: Row[];
}

export interface Chapter {
  title: string;
  sections: Section[];
}

/** A row's name: its section and its place in it. */
export const idOf = (section: Section, row: Row): string =>
  `${section.number}/${section.rows.indexOf(row) + 1}`;

// --- Reasons that many rows have ----------------------------------------------------------------

export const LEGACY = 'no legacy interface: VERSION_1 is required';
export const RING_RESET = 'VIRTIO_F_RING_RESET is not offered';
export const IN_ORDER = 'VIRTIO_F_IN_ORDER is not offered';
export const OWN_READING = 'about what the driver makes of what it reads';
export const BARRIER = "about the order of the driver's own memory accesses";

/** A section of the legacy interface, which is one row here. */
export const legacy = (number: string, title: string): Section => ({
  number,
  title: `${title} (legacy)`,
  side: 'both',
  rows: [
    {
      level: 'MUST',
      says: 'What transitional devices and drivers have to do.',
      notApplicable: LEGACY,
    },
  ],
});
