import { expect, test } from 'vitest';
import { decodeRecord, diskSchema, keys, nodeSchema, recordVersion, volumeSchema } from './records.js';

// As version 1 wrote them.
const volume = {
  version: 1,
  id: '0000000000000010',
  name: 'db',
  size: 1_073_741_824,
  blockSize: 512,
  createdAt: '2026-11-23T00:00:00.000Z',
  phase: 'ready',
  replicas: [
    { id: '0000000000000011', node: 'node1', disk: 'disk1' },
    { id: '0000000000000012', node: 'node2', disk: 'disk1' },
  ],
  inSync: ['0000000000000011'],
  epoch: 7,
  inSyncSequence: 2,
  attachment: { node: 'node1' },
};
const node = { version: 1, name: 'node1', portal: '127.0.0.1:3260' };
const disk = { version: 1, node: 'node1', name: 'disk1', diskId: null, directory: '/d', address: null };

test('records of version 1 are read, with what they had and the defaults of what they lacked', () => {
  expect(decodeRecord(volumeSchema, keys.volume('db'), JSON.stringify(volume))).toEqual({
    ...volume,
    version: recordVersion,
    copies: 2,
    retiring: [],
    constraints: { tags: [], class: null, zonesRequired: false, local: false },
    qos: null,
    access: { chap: null, mutualChap: null, initiators: [] },
    policy: null,
    setAside: [],
    maintenance: null,
    lostData: null,
    rebuildBytesPerSecond: null,
    foregroundPercent: null,
    copying: null,
    linkedTo: null,
  });
  expect(decodeRecord(nodeSchema, keys.node('node1'), JSON.stringify(node))).toMatchObject({
    portal: node.portal,
    zone: null,
  });
  expect(decodeRecord(diskSchema, keys.disk('node1', 'disk1'), JSON.stringify(disk))).toMatchObject({
    tags: [],
    class: null,
  });
});

test('a record that migration cannot make valid is damaged, one of a later version too new', () => {
  const read = (record: object) => () => decodeRecord(volumeSchema, keys.volume('db'), JSON.stringify(record));
  expect(read({ ...volume, inSync: [] })).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
  expect(read({ ...volume, version: recordVersion + 1 })).toThrow(expect.objectContaining({ code: 'FORMAT_TOO_NEW' }));
  expect(read({ ...volume, version: 0 })).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
});
