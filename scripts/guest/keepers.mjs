// The helpers that hold block devices while no target process serves them (native/fuse/mount.h). A node that is killed leaves them. Each is
// recorded in the folder of its cluster, in nodeN/target/**/keeper and anchor, by pid and start time, and ends only if it is that very process.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Field 22 of /proc/PID/stat; null when there is no such process. */
function startTimeOf(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? null : fields[19];
  } catch {
    return null;
  }
}

// Devices themselves are not looked at: whoever asks a file system whose server has gone waits.
function* recordsBelow(directory) {
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) yield* recordsBelow(path);
    else if (entry.name === 'keeper' || entry.name === 'anchor') yield path;
  }
}

/** Of the cluster in `folder`, none of whose target processes runs any more. The pids of those that were ended. */
export async function endKeepers(folder) {
  const ended = [];
  const nodes = readdirSync(folder).filter(
    (name) => /^node\d+$/.test(name) && readdirSync(join(folder, name)).includes('target'),
  );
  for (const path of nodes.flatMap((name) => [...recordsBelow(join(folder, name, 'target'))])) {
    const [pid = '', startTime = ''] = readFileSync(path, 'utf8').trim().split(' ');
    const isThere = () => startTimeOf(pid) === startTime;
    if (!/^[1-9]\d*$/.test(pid) || !isThere()) continue;
    process.kill(Number(pid), 'SIGKILL');
    for (let tries = 0; isThere() && tries < 100; tries++) await new Promise((resolve) => setTimeout(resolve, 50));
    ended.push(Number(pid));
  }
  return ended;
}
