// A share: one volume with a file system, exported by an NFS server process of its own.
import type { ErrorCode } from '../errors/error-codes.js';

export const squashes = ['none', 'root', 'all'] as const;
export type Squash = (typeof squashes)[number];

export const filesystemNames = ['ext4', 'xfs'] as const;
export type FilesystemName = (typeof filesystemNames)[number];

export type ShareOptions = {
  /** Addresses, networks (10.0.0.0/8), names or @netgroups that may mount it; empty: all. */
  readonly clients: readonly string[];
  /** Whose identity is replaced by that of nobody. */
  readonly squash: Squash;
  /** NFSv3 besides NFSv4. */
  readonly v3: boolean;
  /** "sys", "krb5", "krb5i", "krb5p". */
  readonly security: readonly string[];
  /** IP/PREFIX[%INTERFACE] of its own, which goes where it goes (floating-address.ts); null: that of its node. */
  readonly address: string | null;
  /** Kerberos; null: what the server takes by itself ("nfs", the system's keytab). */
  readonly principal: string | null;
  /** Absolute path, on every node that may serve it. */
  readonly keytab: string | null;
};

/** What the manager wants of a node. */
export type ShareOrder = {
  readonly volumeId: string;
  readonly volume: string;
  /** /dev/loopN; empty: the volume is not served yet, what there is of the share is left alone */
  readonly device: string;
  readonly sizeBytes: number;
  /** Made when the volume is empty; null: ext4. */
  readonly fs: string | null;
  /** 0: the node chooses. */
  readonly port: number;
  readonly options: ShareOptions;
};

/** What a node says of a share. */
export type ShareStatus = {
  readonly volumeId: string;
  readonly volume: string;
  readonly state: 'starting' | 'serving' | 'failed' | 'stopping';
  readonly device: string;
  /** Numeric address that clients connect to. */
  readonly server: string;
  readonly port: number;
  readonly fs: string | null;
  /** Of the NFS server. */
  readonly pid: number | null;
  readonly failure: { readonly code: ErrorCode; readonly message: string } | null;
};
