// The one place where errors of the addon become HoldfastErrors.
import { HoldfastError, isErrorCode, systemErrorCode, toHoldfastError } from '../errors/holdfast-error.js';

export function fromNative(thrown: unknown): HoldfastError {
  const code = systemErrorCode(thrown);
  if (thrown instanceof Error && isErrorCode(code)) return new HoldfastError(code, thrown.message);
  return toHoldfastError(thrown);
}

export async function native<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw fromNative(error);
  }
}
