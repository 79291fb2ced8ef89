// The configuration of an NFS-Ganesha that exports one folder. Source: ganesha-config(8), ganesha-core-config(8),
// ganesha-export-config(8).
import type { ShareOptions, Squash } from './share-types.js';

export type GaneshaSettings = {
  readonly volumeId: string;
  readonly volume: string;
  /** The folder that is exported. */
  readonly path: string;
  /** Where client records are kept, so that clients can reclaim what they held: on the volume itself. */
  readonly recoveryDir: string;
  /** Numeric. */
  readonly address: string;
  readonly port: number;
  readonly options: ShareOptions;
};

// A client that is gone holds up others for that long after a restart of the server, and no longer. The protocol wants a grace
// period that is not shorter than the lease.
export const leaseSeconds = 8;
export const graceSeconds = 8;

const squashNames: Readonly<Record<Squash, string>> = {
  none: 'No_Root_Squash',
  root: 'Root_Squash',
  all: 'All_Squash',
};

export function ganeshaConfig(settings: GaneshaSettings): string {
  const { volume, volumeId, path, recoveryDir, address, port, options } = settings;
  const protocols = options.v3 ? '3, 4' : '4';
  const security = options.security.length === 0 ? 'sys' : options.security.join(', ');
  const access = `Access_Type = RW; Squash = ${squashNames[options.squash]}; SecType = ${security};`;
  const clients =
    options.clients.length === 0
      ? access
      : `Access_Type = None;\n  CLIENT { Clients = ${options.clients.join(', ')}; ${access} }`;
  return `# Made by Holdfast for volume ${volume}; changes are lost.
NFS_CORE_PARAM {
  NFS_Port = ${port};${options.v3 ? ` MNT_Port = ${port + 1}; NLM_Port = ${port + 2};` : ' Enable_NLM = false;'}
  Bind_addr = ${address};
  Protocols = ${protocols};
  Enable_UDP = false;
  Enable_RQUOTA = false;
  mount_path_pseudo = true;
  Clustered = false;
}
${kerberos(options)}NFSv4 {
  Lease_Lifetime = ${leaseSeconds};
  Grace_Period = ${graceSeconds};
  Graceless = false;
  RecoveryBackend = fs;
  RecoveryRoot = "${recoveryDir}";
  Minor_Versions = 0, 1, 2;
  Allow_Numeric_Owners = true;
  Only_Numeric_Owners = true;
}
EXPORT {
  Export_Id = 1;
  Path = "${path}";
  Pseudo = "/${volume}";
  Protocols = ${protocols};
  Transports = TCP;
  # The same wherever the volume is served: file handles and attributes must not change with a move.
  Filesystem_Id = ${filesystemId(volumeId)};
  PrefRead = 1048576; PrefWrite = 1048576; MaxRead = 1048576; MaxWrite = 1048576;
  ${clients}
  FSAL { Name = VFS; }
}
`;
}

// Without Kerberos it must not look for a keytab, which it would complain about. Quoted only where the value may be a path.
function kerberos({ security, principal, keytab }: ShareOptions): string {
  if (!security.some((flavour) => flavour.startsWith('krb5'))) return 'NFS_KRB5 { Active_krb5 = false; }\n';
  const chosen = [
    'Active_krb5 = true;',
    ...(principal === null ? [] : [`PrincipalName = ${principal};`]),
    ...(keytab === null ? [] : [`KeytabPath = "${keytab}";`]),
  ];
  return `NFS_KRB5 { ${chosen.join(' ')} }\n`;
}

// Two 63-bit halves; the first must not be 0.
function filesystemId(volumeId: string): string {
  const id = BigInt(`0x${volumeId}`);
  return `${(id >> 32n) + 1n}.${id & 0xffffffffn}`;
}

/** What could end the value it stands in is refused: the file is made of these words. */
export function isClientName(text: string): boolean {
  return /^@?[A-Za-z0-9*?][A-Za-z0-9.:/*?_-]*$/.test(text) && text.length <= 255;
}
export function isPrincipal(text: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9._/@-]*$/.test(text) && text.length <= 255;
}
export function isConfigurationPath(text: string): boolean {
  return /^\/[A-Za-z0-9._/-]+$/.test(text) && text.length <= 1_023;
}
export const securityFlavours = ['sys', 'krb5', 'krb5i', 'krb5p'] as const;
