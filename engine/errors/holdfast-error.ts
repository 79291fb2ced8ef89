// The error that crosses every boundary of the control plane: a code of proto/errors.json and a message that says what
// happened, to which object, and what to do. gRPC and HTTP carry it (grpc-errors.ts, http status below).
import { errorCodes } from './error-codes.js';
import type { ErrorCode } from './error-codes.js';

export class HoldfastError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'HoldfastError';
    this.code = code;
  }
}

/** The shape of an error in REST answers and in the CLI's `--json` output. */
export type ErrorBody = { readonly error: { readonly code: ErrorCode; readonly message: string } };

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(errorCodes, value);
}

export function isHoldfastError(error: unknown, code?: ErrorCode): error is HoldfastError {
  return error instanceof HoldfastError && (code === undefined || error.code === code);
}

/** Whatever was thrown, as a HoldfastError; what is none becomes INTERNAL. */
export function toHoldfastError(error: unknown): HoldfastError {
  if (error instanceof HoldfastError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new HoldfastError('INTERNAL', message, { cause: error });
}

export function errorBody(error: HoldfastError): ErrorBody {
  return { error: { code: error.code, message: error.message } };
}

/** The code of an operating system error (`EADDRINUSE`, `ENOENT`, …), or null. */
export function systemErrorCode(error: unknown): string | null {
  if (!(error instanceof Error) || !('code' in error)) return null;
  return typeof error.code === 'string' ? error.code : null;
}

// By gRPC status number, as google.rpc.Code documents its HTTP mapping.
const httpStatusByGrpcStatus: Readonly<Record<number, number>> = {
  1: 499,
  3: 400,
  4: 504,
  5: 404,
  6: 409,
  7: 403,
  8: 429,
  9: 400,
  10: 409,
  12: 501,
  13: 500,
  14: 503,
  15: 500,
  16: 401,
};

// Where that mapping would say "too many requests, try again later".
const httpStatusByCode: Partial<Readonly<Record<ErrorCode, number>>> = { MESSAGE_TOO_LARGE: 413, NO_SPACE: 507 };

export function httpStatusOf(code: ErrorCode): number {
  return httpStatusByCode[code] ?? httpStatusByGrpcStatus[errorCodes[code].grpcStatus] ?? 500;
}
