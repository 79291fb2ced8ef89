// Files of a snapshot on their way from the node that reads them to whoever asked: a stream of frames.
//
//   frame    length of the payload (uint32, big-endian), kind (1 byte), payload
//   kind 1   a message, as JSON
//   kind 2   content of the file whose entry came last: offset (uint64, big-endian), bytes. What is left out is a hole.
//
// "opened" comes first, then entries, parents before what is in them, then "end" or "error".
import { HoldfastError } from '../errors/holdfast-error.js';
import type { ErrorCode } from '../errors/error-codes.js';
import type { Attributes } from './attributes.js';

export type FileKind = 'file' | 'directory' | 'link' | 'hard-link' | 'special';

export type FileEntry = {
  readonly kind: 'entry';
  readonly type: FileKind;
  /** Below what was asked for, with slashes; empty: that itself. */
  readonly path: string;
  /** In base64, where the path is not UTF-8. */
  readonly rawPath?: string;
  readonly size: number;
  /** Permissions, with set-id and sticky bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly modifiedMs: number;
  /** Of links, as they are; of hard links: the path, as above, of an entry that came before. */
  readonly target?: string;
  readonly rawTarget?: string;
} & Attributes;

/** "ignored": the journal could not be replayed, so what was changed last may be missing. */
export type JournalState = 'replayed' | 'ignored';

export type FileMessage =
  | { readonly kind: 'opened'; readonly fs: string; readonly journal: JournalState; readonly type: FileKind }
  | FileEntry
  | { readonly kind: 'end' }
  | { readonly kind: 'error'; readonly code: ErrorCode; readonly message: string };

export type FileFrame = FileMessage | { readonly kind: 'data'; readonly offset: number; readonly bytes: Buffer };

const headBytes = 5;
const messageKind = 1;
const dataKind = 2;
const payloadBytesMax = 4 << 20;

export function encodeMessage(message: FileMessage): Buffer {
  const payload = Buffer.from(JSON.stringify(message));
  return Buffer.concat([head(payload.length, messageKind), payload]);
}

/** In parts, so that the content is not copied. */
export function encodeData(offset: number, bytes: Buffer): readonly [Buffer, Buffer] {
  const start = Buffer.alloc(8);
  start.writeBigUInt64BE(BigInt(offset));
  return [Buffer.concat([head(bytes.length + 8, dataKind), start]), bytes];
}

function head(length: number, kind: number): Buffer {
  const out = Buffer.alloc(headBytes);
  out.writeUInt32BE(length);
  out.writeUInt8(kind, 4);
  return out;
}

/** Frames of a stream of bytes. PROTOCOL when it is none, or when it stops in the middle. */
export async function* decodeFrames(stream: AsyncIterable<Buffer>): AsyncGenerator<FileFrame> {
  let parts: Buffer[] = [];
  let have = 0;
  let ended = false;
  const take = (count: number): Buffer => {
    const all = parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
    parts = [all.subarray(count)];
    have -= count;
    return all.subarray(0, count);
  };
  let next: { readonly length: number; readonly kind: number } | null = null;
  for await (const part of stream) {
    parts.push(part);
    have += part.length;
    for (;;) {
      if (next === null) {
        if (have < headBytes) break;
        const found = take(headBytes);
        next = { length: found.readUInt32BE(0), kind: found.readUInt8(4) };
        if (next.length > payloadBytesMax) throw broken();
      }
      if (have < next.length) break;
      const frame = decode(next.kind, take(next.length));
      next = null;
      ended = frame.kind === 'end' || frame.kind === 'error';
      yield frame;
    }
  }
  if (!ended) throw new HoldfastError('CONNECTION_LOST', 'the files stopped coming before the last one was complete');
}

function decode(kind: number, payload: Buffer): FileFrame {
  if (kind === messageKind) return JSON.parse(payload.toString('utf8')) as FileMessage;
  if (kind !== dataKind || payload.length < 8) throw broken();
  return { kind: 'data', offset: Number(payload.readBigUInt64BE()), bytes: payload.subarray(8) };
}

function broken(): HoldfastError {
  return new HoldfastError('PROTOCOL', 'what was to be files of a snapshot is something else');
}
