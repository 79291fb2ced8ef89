// Extended attributes on their way out of a snapshot (xattr(7)): which of them go into a frame, and which are written where they arrive.
// POSIX ACLs are such attributes, system.posix_acl_access and system.posix_acl_default.
import { readFileAttributes, writeFileAttribute } from '../addon/file-attributes.js';

/** `value` in base64. */
export type Attribute = { readonly name: string; readonly value: string };

export type Attributes = {
  readonly attributes?: readonly Attribute[];
  /** Names of those that were left out: they cannot be read, or are too large together. "*": all of them. */
  readonly attributesLeft?: readonly string[];
};

const accessList = 'system.posix_acl_access';
// What xfs stores the lists as, and shows besides.
const stored = /^trusted\.SGI_ACL_(FILE|DEFAULT)$/;
const known = /^(user\.|trusted\.|security\.|system\.posix_acl_(access|default)$)/;
// So that a frame never becomes too long (file-frames.ts).
const valueBytesMax = 2 << 20;

export function attributesOf(path: Buffer): Attributes {
  const found = readFileAttributes(path);
  if (found === null) return { attributesLeft: ['*'] };
  const attributes: Attribute[] = [];
  const attributesLeft: string[] = [];
  let bytes = 0;
  for (const { name, value } of found) {
    const text = name.toString('utf8');
    if (stored.test(text)) continue;
    const exact = Buffer.from(text).equals(name);
    if (!exact || value === null || bytes + value.length > valueBytesMax) {
      attributesLeft.push(text);
      continue;
    }
    bytes += value.length;
    attributes.push({ name: text, value: value.toString('base64') });
  }
  return {
    ...(attributes.length === 0 ? {} : { attributes }),
    ...(attributesLeft.length === 0 ? {} : { attributesLeft }),
  };
}

/**
 * Writes them, and names those that are not kept. DISK_IO. After the content and the owner, which end some of them, and before the mode,
 * which may forbid it.
 */
export function writeAttributes(path: Buffer, { attributes = [], attributesLeft = [] }: Attributes): readonly string[] {
  const lost = attributes.filter(({ name, value }) => {
    if (!known.test(name) || name.includes('\0')) return true;
    return !writeFileAttribute(path, Buffer.from(name), Buffer.from(value, 'base64'));
  });
  return [...lost.map(({ name }) => name), ...attributesLeft];
}

/**
 * The mode of a file that lost those attributes. With an ACL the bits of the group are its mask, and what the group itself may do is in
 * the list: without it, nobody may do more than before.
 */
export function modeWithout(lost: readonly string[], mode: number, { attributes = [] }: Attributes): number {
  if (!lost.includes(accessList)) return mode;
  const list = attributes.find(({ name }) => name === accessList);
  const group = list === undefined ? 0 : groupPermissions(Buffer.from(list.value, 'base64'));
  return (mode & ~0o070) | (mode & (group << 3));
}

// linux/posix_acl_xattr.h: a version of 4 bytes, then entries of a tag and permissions (2 bytes each) and an id (4 bytes), little-endian.
function groupPermissions(list: Buffer): number {
  const groupTag = 0x04;
  for (let at = 4; at + 8 <= list.length; at += 8) {
    if (list.readUInt16LE(at) === groupTag) return list.readUInt16LE(at + 2) & 0o7;
  }
  return 0;
}
