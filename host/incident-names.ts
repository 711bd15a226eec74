// The incidents of docs/abi.md by the names that reports and states show.

/** Counter names, in the order of the INCIDENT_* numbers. */
export const INCIDENT_NAMES = [
  'width',
  'register',
  'status',
  'frozen',
  'queueConfig',
  'notify',
  'availIndex',
  'head',
  'chain',
  'memory',
  'request',
  'tag',
  'overrun',
  'features',
] as const;

export type IncidentName = (typeof INCIDENT_NAMES)[number];
