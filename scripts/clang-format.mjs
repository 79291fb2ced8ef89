// Checks (or with --write: makes) the formatting of native/. The style is that of clang-format 14: other versions
// break lines differently, so without that version the check is skipped, and says so.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { root, run } from './build.mjs';

const version = 14;

function find() {
  for (const command of [`clang-format-${version}`, 'clang-format']) {
    const output = spawnSync(command, ['--version'], { encoding: 'utf8' }).stdout ?? '';
    if (new RegExp(`version ${version}\\.`).test(output)) return command;
  }
  return null;
}

const command = find();
if (command === null) {
  console.log(`clang-format: skipped, version ${version} is not installed`);
} else {
  const files = readdirSync(join(root, 'native'), { recursive: true })
    .filter((name) => /\.(h|cc)$/.test(name))
    .map((name) => join('native', name))
    .sort();
  try {
    run(command, [...(process.argv.includes('--write') ? ['-i'] : ['--dry-run', '-Werror']), ...files]);
  } catch {
    console.error('clang-format: run npm run format');
    process.exitCode = 1;
  }
}
