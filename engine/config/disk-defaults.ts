/** What a disk gets when nobody says otherwise, in bytes: its journal when it is made, and memory for data on its way to its place. */
export const diskDefaults = { journalBytes: 256 * 2 ** 20, cacheBytes: 128 * 2 ** 20 } as const;
