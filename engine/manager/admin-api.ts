// The part of the manager's API that is about nodes, disks, the trash, policies and settings (api.ts has volumes).
import { validateLabel, validateReplicaCount } from '../config/volume-input.js';
import { HoldfastError } from '../errors/holdfast-error.js';
import { certifyNode } from './authority.js';
import type { Authority, CertificateRequest, IssuedCertificate } from './authority.js';
import { formatJoinToken, makeToken } from '../security/tokens.js';
import { objection } from '../placement/place-replicas.js';
import { diskCandidates, neighboursOf, requestOf } from './candidates.js';
import type { ManagerContext } from './context.js';
import { nameTaken } from './node-names.js';
import { addDisk, changeDisk, changeNode, changeSettings, emptying, removeDisk } from './node-operations.js';
import type { DiskChange, EmptyingView, NewDisk, NodeChange } from './node-operations.js';
import { defaultConstraints, recordVersion } from './records.js';
import type { Constraints, PolicyRecord, Qos, Role, SettingsRecord, TokenRecord } from './records.js';
import { purge, restoreFromTrash, trashView } from './trash-operations.js';
import type { TrashView } from './trash-operations.js';

export type ExplanationView = {
  readonly volume: string;
  /** What it asks of its disks. */
  readonly wants: { readonly replicas: number } & Constraints;
  readonly disks: readonly {
    readonly node: string;
    readonly disk: string;
    readonly zone: string | null;
    readonly holds: boolean;
    /** Whether it could take one more replica now. */
    readonly accepted: boolean;
    /** Why not. */
    readonly reason: string | null;
    readonly promisedShare: number | null;
  }[];
};

export type SettingsView = Omit<SettingsRecord, 'version'>;
export type PolicyView = Omit<PolicyRecord, 'version'>;

export type NewPolicy = {
  readonly name: string;
  readonly replicas?: number | undefined;
  readonly constraints?: Partial<Constraints> | undefined;
  readonly qos?: Qos | null | undefined;
};

export type AdminApi = {
  readonly explainVolume: (name: string) => Promise<ExplanationView>;
  readonly changeNode: (name: string, change: NodeChange) => Promise<void>;
  readonly changeDisk: (node: string, disk: string, change: DiskChange) => Promise<void>;
  readonly addDisk: (disk: NewDisk) => Promise<void>;
  readonly removeDisk: (node: string, disk: string, force: boolean) => Promise<void>;
  readonly getEmptying: (node: string, disk: string | null) => Promise<EmptyingView>;
  readonly listTrash: () => Promise<readonly TrashView[]>;
  readonly restoreVolume: (idOrName: string, name: string | null) => Promise<string>;
  readonly purgeVolume: (idOrName: string) => Promise<readonly string[]>;
  readonly getSettings: () => Promise<SettingsView>;
  readonly changeSettings: (change: {
    readonly [K in keyof SettingsView]?: SettingsView[K] | undefined;
  }) => Promise<SettingsView>;
  readonly listPolicies: () => Promise<readonly PolicyView[]>;
  readonly putPolicy: (policy: NewPolicy) => Promise<PolicyView>;
  readonly removePolicy: (name: string) => Promise<void>;
  readonly listTokens: () => Promise<readonly TokenView[]>;
  readonly createToken: (token: NewToken) => Promise<MadeTokenView>;
  readonly removeToken: (id: string) => Promise<void>;
  /** `shown`: the common name of the caller's certificate. */
  readonly certifyNode: (request: CertificateRequest, shown: string | null) => Promise<IssuedCertificate>;
};

export type TokenView = Omit<TokenRecord, 'version' | 'hash'>;
export type NewToken = { readonly role: Role; readonly note: string; readonly expiresInSeconds?: number | undefined };
export type MadeTokenView = {
  readonly id: string;
  readonly role: Role;
  /** The only time that it is told. */
  readonly text: string;
  /** For "holdfast agent --join", when the role is agent. */
  readonly join: string | null;
  readonly expiresAt: string | null;
};

/** `change` lets the reconciler look afterwards. */
export function createAdminApi(
  context: ManagerContext,
  change: <T>(task: () => Promise<T>) => Promise<T>,
  diskChanges: { readonly announce: () => void },
  /** At which other hosts reach the managers. */
  managers: readonly string[],
  authority: Authority | null,
): AdminApi {
  const { repository } = context;
  const changeDisks = (task: () => Promise<unknown>) =>
    change(async () => {
      await task();
      diskChanges.announce();
    });
  return {
    explainVolume: (name) => explainVolume(context, name),
    changeNode: (name, edit) =>
      change(async () => {
        await changeNode(context, name, edit);
      }),
    changeDisk: (node, disk, edit) => changeDisks(() => changeDisk(context, node, disk, edit)),
    addDisk: (disk) => changeDisks(() => addDisk(context, disk)),
    removeDisk: (node, disk, force) => changeDisks(() => removeDisk(context, node, disk, force)),
    getEmptying: (node, disk) => emptying(context, node, disk),
    listTrash: async () => (await repository.listTrash()).map(trashView),
    restoreVolume: (idOrName, name) => change(async () => (await restoreFromTrash(context, idOrName, name)).name),
    purgeVolume: (idOrName) => change(() => purge(context, idOrName)),
    getSettings: async () => withoutVersion(await repository.settings()),
    changeSettings: (edit) => change(async () => withoutVersion(await changeSettings(context, edit))),
    listPolicies: async () => (await repository.listPolicies()).map(withoutVersion),
    putPolicy: async ({ name, replicas = 3, constraints, qos }) => {
      const record: PolicyRecord = {
        version: recordVersion,
        name: validateLabel(name, 'policy name'),
        copies: validateReplicaCount(replicas),
        constraints: { ...defaultConstraints, ...constraints },
        qos: qos ?? null,
      };
      await repository.putPolicy(record);
      return withoutVersion(record);
    },
    listTokens: async () => (await repository.listTokens()).map(({ version: _, hash: __, ...rest }) => rest),
    createToken: async ({ role, note, expiresInSeconds }) => {
      const made = makeToken((bytes) => Buffer.from(context.random(bytes)), authority?.fingerprint ?? null);
      const now = context.now();
      const expiresAt =
        expiresInSeconds === undefined ? null : new Date(now.getTime() + expiresInSeconds * 1_000).toISOString();
      const { id, hash, text } = made;
      await repository.putToken({
        version: recordVersion,
        id,
        hash,
        role,
        note,
        createdAt: now.toISOString(),
        expiresAt,
      });
      const join = role === 'agent' ? formatJoinToken({ managers: [...managers], token: text }) : null;
      return { id, role, text, join, expiresAt };
    },
    removeToken: async (id) => {
      if ((await repository.token(id)) === null)
        throw new HoldfastError('NOT_FOUND', `token "${id}" does not exist: "holdfast token ls" lists the tokens`);
      await repository.removeToken(id);
    },
    certifyNode: async (request, shown) => {
      const online = (context.observed.node(request.node)?.agentPid ?? null) !== null;
      const record = online ? (await repository.listNodes()).find(({ name }) => name === request.node) : undefined;
      const taken = online ? nameTaken(request.node, record?.agent, null) : null;
      return await certifyNode(authority, request, shown, taken, context.now());
    },
    removePolicy: async (name) => {
      await repository.policy(name);
      const users = (await repository.listVolumes()).filter(({ policy }) => policy === name);
      if (users.length > 0)
        throw new HoldfastError(
          'IN_USE',
          `policy "${name}" is used by ${users.length} volumes, among them "${users[0]?.name ?? ''}"`,
        );
      await repository.removePolicy(name);
    },
  };
}

function withoutVersion<T extends { readonly version: number }>({ version: _, ...rest }: T): Omit<T, 'version'> {
  return rest;
}

async function explainVolume(context: ManagerContext, name: string): Promise<ExplanationView> {
  const { record } = await context.repository.volume(name);
  const [candidates, settings] = await Promise.all([diskCandidates(context), context.repository.settings()]);
  const request = requestOf(record, settings);
  const neighbours = neighboursOf(record.replicas, candidates);
  return {
    volume: name,
    wants: { replicas: record.copies, ...record.constraints },
    disks: candidates.map((candidate) => {
      const { node, disk, zone, capacityBytes, scheduledBytes } = candidate;
      const reason = objection(candidate, request, neighbours);
      return {
        node,
        disk,
        zone,
        holds: record.replicas.some((replica) => replica.node === node && replica.disk === disk),
        accepted: reason === null,
        reason,
        promisedShare: capacityBytes === 0 ? null : scheduledBytes / capacityBytes,
      };
    }),
  };
}
