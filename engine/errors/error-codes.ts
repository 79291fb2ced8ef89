// Generated from proto/errors.json by scripts/generate-errors.mjs. Do not edit.

/** Every error code of Holdfast, with the gRPC status that carries it, what it means, and what to do. */
export const errorCodes = {
  INVALID_ARGUMENT: {
    grpcStatus: 3,
    meaning: "A parameter is malformed or out of range.",
    action: "Correct the parameter that the message names.",
  },
  NOT_FOUND: {
    grpcStatus: 5,
    meaning: "The named object does not exist.",
    action: "List the objects of that kind and check the name.",
  },
  ALREADY_EXISTS: {
    grpcStatus: 6,
    meaning: "An object of that name exists already.",
    action: "Choose another name, or use the existing object.",
  },
  FAILED_PRECONDITION: {
    grpcStatus: 9,
    meaning: "The object is in a state that does not allow the request.",
    action: "Do what the message names first.",
  },
  VOLUME_ATTACHED: {
    grpcStatus: 9,
    meaning: "The volume is attached.",
    action: "Detach it first, or use the node where it is attached.",
  },
  VOLUME_DETACHED: {
    grpcStatus: 9,
    meaning: "The volume is not attached.",
    action: "Attach it first.",
  },
  EPOCH_SUPERSEDED: {
    grpcStatus: 9,
    meaning: "A newer epoch was promised: another engine owns the volume.",
    action: "Stop using this engine; the volume is served elsewhere.",
  },
  LOG_GAP: {
    grpcStatus: 9,
    meaning: "An entry does not follow the last entry of the replica's log.",
    action: "Open the replica again and ship the entries that it lacks.",
  },
  REPLICA_INCOMPLETE: {
    grpcStatus: 9,
    meaning: "The replica is being rebuilt and cannot serve this.",
    action: "Use an in-sync replica.",
  },
  NO_IN_SYNC_REPLICA: {
    grpcStatus: 14,
    meaning: "No in-sync replica of the volume can be reached.",
    action: "Bring back a node that holds an in-sync replica.",
  },
  NO_SPACE: {
    grpcStatus: 8,
    meaning: "A disk has no room left beyond its reserve.",
    action: "Free space, add a disk, or move replicas.",
  },
  NOT_ENOUGH_DISKS: {
    grpcStatus: 9,
    meaning: "Fewer suitable disks than replicas were asked for.",
    action: "Add nodes or disks, or ask for fewer replicas.",
  },
  CORRUPT: {
    grpcStatus: 15,
    meaning: "Stored bytes do not match their checksum.",
    action: "Holdfast reads another copy and repairs this one; replace the disk if it happens again.",
  },
  JOURNAL_DAMAGED: {
    grpcStatus: 15,
    meaning: "The journal is damaged before its commit watermark.",
    action: "The replicas on this disk are rebuilt from other copies; check the disk.",
  },
  FORMAT_TOO_NEW: {
    grpcStatus: 9,
    meaning: "The data was written by a newer version of Holdfast.",
    action: "Use that version or a later one.",
  },
  WRONG_DISK: {
    grpcStatus: 9,
    meaning: "The folder holds something other than the expected disk.",
    action: "Check the path, or use an empty folder.",
  },
  DISK_IO: {
    grpcStatus: 14,
    meaning: "The operating system reported an I/O error.",
    action: "Check the disk and the kernel log.",
  },
  IN_USE: {
    grpcStatus: 9,
    meaning: "Another process uses the folder, port or object.",
    action: "Stop the other process, or choose another.",
  },
  CONNECTION_LOST: {
    grpcStatus: 14,
    meaning: "The connection broke or could not be made.",
    action: "Check that the process at that address runs and can be reached.",
  },
  TIMED_OUT: {
    grpcStatus: 4,
    meaning: "No answer came in time.",
    action: "Check the load and health of the peer, then try again.",
  },
  CANCELLED: {
    grpcStatus: 1,
    meaning: "The request was given up by its caller or by a shutdown.",
    action: "Repeat it if it is still wanted.",
  },
  PROTOCOL: {
    grpcStatus: 13,
    meaning: "The peer broke the protocol.",
    action: "Check that both sides run compatible versions.",
  },
  MESSAGE_TOO_LARGE: {
    grpcStatus: 8,
    meaning: "A message exceeds the size limit.",
    action: "Send smaller messages.",
  },
  UNIMPLEMENTED: {
    grpcStatus: 12,
    meaning: "The method or command is unknown here.",
    action: "Check the version of both sides.",
  },
  STORE_UNAVAILABLE: {
    grpcStatus: 14,
    meaning: "The metadata store or the manager cannot be reached, or the store cannot be changed (its file system is full).",
    action: "Start the manager, or free space where the message says; I/O that needs a change of the in-sync set waits for it.",
  },
  CONFLICT: {
    grpcStatus: 10,
    meaning: "The record changed meanwhile.",
    action: "Read it again and repeat the change.",
  },
  UNSUPPORTED_SYSTEM: {
    grpcStatus: 9,
    meaning: "The system lacks something Holdfast needs.",
    action: "Install or enable what the message names.",
  },
  INTERNAL: {
    grpcStatus: 13,
    meaning: "Holdfast met a state that it did not expect.",
    action: "Report it with the logs.",
  },
  UNAUTHENTICATED: {
    grpcStatus: 16,
    meaning: "The request carries no token, or one that is unknown or has expired.",
    action: "Give a valid token: --token-file, HOLDFAST_TOKEN or HOLDFAST_TOKEN_FILE.",
  },
  PERMISSION_DENIED: {
    grpcStatus: 7,
    meaning: "The token's role does not allow the request.",
    action: "Use a token with the role that the message names.",
  },
  LAST_GOOD_COPY: {
    grpcStatus: 9,
    meaning: "The replica is the last one that has everything.",
    action: "Bring another replica in-sync first, or delete the volume.",
  },
  DATA_LOSS: {
    grpcStatus: 15,
    meaning: "Serving the volume would serve data older than what was acknowledged.",
    action: "Bring back the replicas that the message names, or accept the loss with --accept-data-loss.",
  },
} as const;

export type ErrorCode = keyof typeof errorCodes;
