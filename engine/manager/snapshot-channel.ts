// Changes of snapshots on one stream to a target process. A call of its own for each would cost both processes three times as much, and most of
// what is compiled in the first seconds of a manager would be for that. The stream is opened by the first change, and ended when there
// was none for a while. When it breaks, all changes under way fail as calls would.
import type { ClientDuplexStream, ServiceError } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { fromServiceError } from '../errors/grpc-errors.js';
import { HoldfastError, isErrorCode } from '../errors/holdfast-error.js';
import type {
  ChangeSnapshotRequest,
  ChangeSnapshotResponse,
  NumberedSnapshotChange,
  SnapshotOutcome,
} from '../generated/holdfast/v1/target.js';

export type ChangeStream = ClientDuplexStream<NumberedSnapshotChange, SnapshotOutcome>;

type Waiting = {
  readonly resolve: (response: ChangeSnapshotResponse) => void;
  readonly reject: (error: unknown) => void;
  readonly deadline: NodeJS.Timeout;
};

export class SnapshotChannel {
  readonly #open: () => ChangeStream;
  readonly #peer: string;
  readonly #idleMs: number;
  readonly #waiting = new Map<bigint, Waiting>();
  #stream: ChangeStream | null = null;
  #idle: NodeJS.Timeout | null = null;
  #lastNumber = 0n;

  /** `peer` says who is at the other end, for messages. */
  constructor(open: () => ChangeStream, peer: string, idleMs = 10_000) {
    this.#open = open;
    this.#peer = peer;
    this.#idleMs = idleMs;
  }

  /** UNIMPLEMENTED: a target process of a version that knows no such stream. */
  async change(change: ChangeSnapshotRequest, timeoutMs: number): Promise<ChangeSnapshotResponse> {
    const stream = (this.#stream ??= this.#begin());
    const number = ++this.#lastNumber;
    return await new Promise((resolve, reject) => {
      // The stream goes on: that a host was cut off is noticed much earlier, and ends it.
      const deadline = setTimeout(() => {
        this.#waiting.delete(number);
        reject(new HoldfastError('TIMED_OUT', `${this.#peer}: no answer to a change of a snapshot in ${timeoutMs} ms`));
      }, timeoutMs);
      this.#waiting.set(number, { resolve, reject, deadline });
      stream.write({ number, change });
    });
  }

  close(): void {
    this.#fail(new HoldfastError('CANCELLED', `${this.#peer}: the connection was closed`));
  }

  #begin(): ChangeStream {
    const stream = this.#open();
    stream.on('data', (outcome: SnapshotOutcome) => {
      this.#settle(outcome);
    });
    stream.on('error', (error: ServiceError) => {
      if (this.#stream === stream) this.#fail(fromServiceError(error, this.#peer));
    });
    stream.on('end', () => {
      const gone: Partial<ServiceError> = { code: status.UNAVAILABLE, details: 'it ended the stream of changes' };
      if (this.#stream === stream) this.#fail(fromServiceError(gone as ServiceError, this.#peer));
    });
    this.#idle = setTimeout(() => {
      this.#endIfIdle();
    }, this.#idleMs);
    this.#idle.unref();
    return stream;
  }

  #settle({ number, response, errorCode, error }: SnapshotOutcome): void {
    const waiting = this.#waiting.get(number);
    if (waiting === undefined) return;
    this.#waiting.delete(number);
    clearTimeout(waiting.deadline);
    this.#idle?.refresh();
    if (response !== undefined) waiting.resolve(response);
    else waiting.reject(new HoldfastError(isErrorCode(errorCode) ? errorCode : 'INTERNAL', error));
  }

  #endIfIdle(): void {
    if (this.#waiting.size > 0) {
      this.#idle?.refresh();
      return;
    }
    this.#forgetStream()?.end();
  }

  #fail(error: unknown): void {
    this.#forgetStream()?.cancel();
    const failed = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject, deadline } of failed) {
      clearTimeout(deadline);
      reject(error);
    }
  }

  #forgetStream(): ChangeStream | null {
    if (this.#idle !== null) clearTimeout(this.#idle);
    this.#idle = null;
    const stream = this.#stream;
    this.#stream = null;
    return stream;
  }
}
