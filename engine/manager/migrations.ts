// How records of earlier versions become records of the present one. One step per version; a step takes any record of that
// version and gives one of the next. Steps are never changed once they were released.

type Stored = Readonly<Record<string, unknown>> & { readonly version: number };
type Step = (key: string, record: Stored) => Readonly<Record<string, unknown>>;

const steps: Readonly<Record<number, Step>> = {
  // Disks and nodes can be cordoned; volumes have a wanted number of replicas, constraints, QoS and access control.
  1: (key, record) => {
    if (key.startsWith('/nodes/')) return { ...record, zone: null, cordoned: false, draining: false };
    if (key.startsWith('/disks/'))
      return { ...record, tags: [], class: null, cordoned: false, evicting: false, order: null };
    if (!key.startsWith('/volumes/')) return record;
    const { replicas } = record;
    return {
      ...record,
      retiring: [],
      copies: Array.isArray(replicas) ? replicas.length : 1,
      constraints: { tags: [], class: null, zonesRequired: false, local: false },
      qos: null,
      access: { chap: null, mutualChap: null, initiators: [] },
      policy: null,
    };
  },
};

/** The record at version `to`; unchanged when it is already. */
export function migrate(key: string, record: Stored, to: number): Stored {
  let current = record;
  while (current.version < to) {
    const step = steps[current.version];
    if (step === undefined) return current;
    current = { ...step(key, current), version: current.version + 1 };
  }
  return current;
}
