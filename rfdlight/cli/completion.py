"""`rfdlight completion`: print the completion of command lines for bash and zsh."""

from __future__ import annotations

import shlex
import sys

from rfdlight.cli.commands import KNOWN, written_options
from rfdlight.core.registry import FLAGS, list_victims, names

_SCRIPT = """\
[[ -z ${{ZSH_VERSION-}} ]] || {{ autoload -U +X bashcompinit && bashcompinit; }}
_rfdlight() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} option=${{COMP_WORDS[COMP_CWORD-1]}} words=
    [[ $word != = ]] || word=
    [[ $option != = ]] || option=${{COMP_WORDS[COMP_CWORD-2]}}
    case $option in
{values}
    esac
    if [[ -z $words && ( $COMP_CWORD == 1 || $word == -* ) ]]; then
        case ${{COMP_WORDS[1]}} in
{options}
        *) words={commands} ;;
        esac
    fi
    [[ -z $words ]] || COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _rfdlight rfdlight
"""


def completion() -> None:
    """Print a script that completes commands, options and names in bash and zsh.

    `eval "$(rfdlight completion)"` in the start file of the shell turns it on.

    Example:
        >>> completion()  # doctest: +ELLIPSIS
        [[ -z ...
    """
    written = written_options()
    values = {flag: names(kind) for kind, flag in FLAGS.items()}
    values |= {
        "attack": ["standard", *values["attack"]],
        "model.criterion": names("criterion"),
        "model.victim": list_victims(),
    }
    for options in written.values():
        values |= {name: expected for name, expected in options.items() if isinstance(expected, list)}
    sys.stdout.write(
        _SCRIPT.format(
            values=_cases({f"--{name}": known for name, known in values.items()}),
            options=_cases({command: [f"--{name}" for name in [*written[command], "help"]] for command in KNOWN}),
            commands=shlex.quote(" ".join(KNOWN)),
        )
    )


def _cases(words: dict[str, list[str]]) -> str:
    """Return branches of a `case` that set `words`."""
    return "\n".join(f"        {pattern}) words={shlex.quote(' '.join(known))} ;;" for pattern, known in words.items())
