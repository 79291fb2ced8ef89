/** What is measured: the shape of the load, in fio's words. */
export interface BenchCase {
  readonly id: string;
  readonly title: string;
  readonly rw: 'randread' | 'randwrite' | 'read' | 'write';
  readonly blockSize: '4k' | '1m';
  readonly depth: number;
  /** Flush (SYNCHRONIZE CACHE) after every write. */
  readonly fsync: boolean;
}

const benchCase = (
  id: string,
  title: string,
  rw: BenchCase['rw'],
  blockSize: BenchCase['blockSize'],
  depth: number,
  fsync = false,
): BenchCase => ({
  id,
  title,
  rw,
  blockSize,
  depth,
  fsync,
});

/** Writes come first, so that reads find every block written. */
export const benchCases: readonly BenchCase[] = [
  benchCase('seq-write-d8', '1 MiB sequential write, depth 8', 'write', '1m', 8),
  benchCase('rand-write-d1', '4 KiB random write, depth 1', 'randwrite', '4k', 1),
  benchCase('rand-write-d32', '4 KiB random write, depth 32', 'randwrite', '4k', 32),
  benchCase('rand-write-fsync', '4 KiB random write + fsync each, depth 1', 'randwrite', '4k', 1, true),
  benchCase('rand-read-d1', '4 KiB random read, depth 1', 'randread', '4k', 1),
  benchCase('rand-read-d32', '4 KiB random read, depth 32', 'randread', '4k', 32),
  benchCase('seq-read-d8', '1 MiB sequential read, depth 8', 'read', '1m', 8),
];
