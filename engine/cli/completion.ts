// holdfast completion bash|zsh|fish: a script for the shell, made of the table of commands, so that it knows all of them and costs no
// start of a process while one types.
import type { Command } from 'commander';
import { HoldfastError } from '../errors/holdfast-error.js';
import { UsageError } from './run.js';
import type { Streams } from './run.js';
import { examples } from './volume-commands.js';

const shells = ['bash', 'zsh', 'fish'] as const;

/** What may follow a sequence of command words: more of them, and options. */
type Step = { readonly path: string; readonly words: readonly string[] };

export function addCompletionCommand(program: Command, streams: Streams): void {
  program
    .command('completion')
    .argument('<shell>', shells.join(', '))
    .option('--json', 'print JSON: {"script"}')
    .description('print a script that completes commands and options in a shell')
    .addHelpText('after', examples('holdfast completion bash > /etc/bash_completion.d/holdfast'))
    .action((shell: string, options: { readonly json?: boolean }) => {
      const script = completionScript(program, shell);
      streams.out(options.json === true ? JSON.stringify({ script }) + '\n' : script);
    });
}

export function completionScript(program: Command, shell: string): string {
  const steps = stepsOf(program, []);
  switch (shell) {
    case 'bash':
      return bashScript(steps);
    case 'zsh':
      return `autoload -U +X bashcompinit && bashcompinit\n${bashScript(steps)}`;
    case 'fish':
      return fishScript(steps);
    default:
      throw new UsageError(
        new HoldfastError('INVALID_ARGUMENT', `there is no completion for "${shell}": use ${shells.join(', ')}`),
      );
  }
}

function stepsOf(command: Command, path: readonly string[]): readonly Step[] {
  const options = command.options.flatMap(({ long }) => (long === undefined ? [] : [long]));
  const words = [...command.commands.map((each) => each.name()), ...options, '--help'];
  return [
    { path: path.join(' '), words: [...new Set(words)] },
    ...command.commands.flatMap((each) => stepsOf(each, [...path, each.name()])),
  ];
}

// Words that are no commands (names of volumes, values of options) end the path.
function bashScript(steps: readonly Step[]): string {
  const cases = steps.map(({ path, words }) => `    "${path}") words="${words.join(' ')}" ;;`).join('\n');
  const known = steps.map(({ path }) => `"${path}"`).join('|');
  return `_holdfast() {
  local path="" word words next
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    next="\${path:+$path }$word"
    case "$next" in ${known}) path="$next" ;; esac
  done
  case "$path" in
${cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _holdfast holdfast
`;
}

function fishScript(steps: readonly Step[]): string {
  return (
    steps
      .flatMap(({ path, words }) => {
        const condition =
          path === ''
            ? '__fish_use_subcommand'
            : path
                .split(' ')
                .map((word) => `__fish_seen_subcommand_from ${word}`)
                .join('; and ');
        return words.map((word) => {
          const what = word.startsWith('--') ? `-l ${word.slice(2)}` : `-a ${word}`;
          return `complete -c holdfast -f -n '${condition}' ${what}`;
        });
      })
      .join('\n') + '\n'
  );
}
