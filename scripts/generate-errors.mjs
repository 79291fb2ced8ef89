// Writes what derives from proto/errors.json: the C++ enum, the TypeScript table, docs/errors.md.
// `node scripts/generate-errors.mjs` rewrites them; with --check it exits 1 if one is out of date.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const table = JSON.parse(readFileSync(join(root, 'proto/errors.json'), 'utf8'));
const grpcCodes = [
  'OK',
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
];
const grpcNumber = (name) => {
  const number = grpcCodes.indexOf(name);
  if (number < 0) throw new Error(`proto/errors.json names an unknown gRPC status: ${name}`);
  return number;
};
const camel = (code) =>
  'k' +
  code
    .toLowerCase()
    .split('_')
    .map((w) => w[0].toUpperCase() + w.slice(1))
    .join('');

const cpp = `// Generated from proto/errors.json by scripts/generate-errors.mjs. Do not edit.
#pragma once

#include <string_view>

namespace holdfast {

enum class ErrorCode : unsigned char {
${table.map((e) => `  ${camel(e.code)},`).join('\n')}
};

inline constexpr struct ErrorCodeRow {
  ErrorCode code;
  std::string_view name;
  int grpc_status;
} kErrorCodes[] = {
${table.map((e) => `    {ErrorCode::${camel(e.code)}, "${e.code}", ${grpcNumber(e.grpc)}},`).join('\n')}
};

constexpr std::string_view error_code_name(ErrorCode code) { return kErrorCodes[static_cast<unsigned>(code)].name; }
// The gRPC status that carries this code on the wire; the code itself travels in the trailer "holdfast-code".
constexpr int grpc_status_of(ErrorCode code) { return kErrorCodes[static_cast<unsigned>(code)].grpc_status; }

}  // namespace holdfast
`;

const ts = `// Generated from proto/errors.json by scripts/generate-errors.mjs. Do not edit.

/** Every error code of Holdfast, with the gRPC status that carries it, what it means, and what to do. */
export const errorCodes = {
${table
  .map(
    (e) =>
      `  ${e.code}: {\n    grpcStatus: ${grpcNumber(e.grpc)},\n    meaning: ${JSON.stringify(e.meaning)},\n    action: ${JSON.stringify(e.action)},\n  },`,
  )
  .join('\n')}
} as const;

export type ErrorCode = keyof typeof errorCodes;
`;

const md = `# Errors

Every error of Holdfast carries one of these codes: in the C++ \`Error\`, in the gRPC trailer \`holdfast-code\`, in the
\`code\` field of REST answers and of the CLI's \`--json\` output. The message beside it names the object and what to do.
This page is generated from \`proto/errors.json\`.

| code | gRPC status | what it means | what to do |
|---|---|---|---|
${table.map((e) => `| \`${e.code}\` | ${e.grpc} | ${e.meaning} | ${e.action} |`).join('\n')}
`;

let stale = 0;
for (const [path, content] of [
  ['native/base/error_codes.h', cpp],
  ['engine/errors/error-codes.ts', ts],
  ['docs/errors.md', md],
]) {
  const full = join(root, path);
  if (process.argv.includes('--check')) {
    let present = '';
    try {
      present = readFileSync(full, 'utf8');
    } catch {
      // A missing file is out of date.
    }
    if (present !== content) {
      console.error(`${path} is out of date: run node scripts/generate-errors.mjs`);
      stale = 1;
    }
  } else {
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, content);
  }
}
process.exitCode = stale;
