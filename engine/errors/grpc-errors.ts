// Errors across gRPC: the status of errorCodes, the message as details, the code in the trailer "holdfast-code".
import { Metadata, status } from '@grpc/grpc-js';
import type { ServiceError, StatusObject } from '@grpc/grpc-js';
import { errorCodes } from './error-codes.js';
import type { ErrorCode } from './error-codes.js';
import { HoldfastError, isErrorCode, toHoldfastError } from './holdfast-error.js';

export const errorCodeTrailer = 'holdfast-code';

/** For the callback of a unary handler, or `emit('error')` of a stream. */
export function toGrpcStatus(thrown: unknown): StatusObject {
  const error = toHoldfastError(thrown);
  const metadata = new Metadata();
  metadata.set(errorCodeTrailer, error.code);
  // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment -- the table holds this enum's numbers
  return { code: errorCodes[error.code].grpcStatus, details: error.message, metadata };
}

// For peers that are not Holdfast's, and for errors that the transport itself makes.
const codeByGrpcStatus: Readonly<Partial<Record<status, ErrorCode>>> = {
  [status.CANCELLED]: 'CANCELLED',
  [status.INVALID_ARGUMENT]: 'INVALID_ARGUMENT',
  [status.DEADLINE_EXCEEDED]: 'TIMED_OUT',
  [status.NOT_FOUND]: 'NOT_FOUND',
  [status.ALREADY_EXISTS]: 'ALREADY_EXISTS',
  [status.RESOURCE_EXHAUSTED]: 'MESSAGE_TOO_LARGE',
  [status.FAILED_PRECONDITION]: 'FAILED_PRECONDITION',
  [status.ABORTED]: 'CONFLICT',
  [status.UNIMPLEMENTED]: 'UNIMPLEMENTED',
  [status.UNAVAILABLE]: 'CONNECTION_LOST',
  [status.DATA_LOSS]: 'CORRUPT',
  [status.UNAUTHENTICATED]: 'UNAUTHENTICATED',
  [status.PERMISSION_DENIED]: 'PERMISSION_DENIED',
};

/** `peer` says who was called, for the message. */
export function fromServiceError(error: ServiceError, peer: string): HoldfastError {
  const carried = (error.metadata as Metadata | undefined)?.get(errorCodeTrailer)[0];
  if (isErrorCode(carried)) return new HoldfastError(carried, error.details, { cause: error });
  const code = codeByGrpcStatus[error.code] ?? 'INTERNAL';
  return new HoldfastError(code, `${peer}: ${error.details}`, { cause: error });
}
