"""`sarai completion`: the script that completes commands, options and skills in a shell."""

from __future__ import annotations

import sys

import click

from core.cli.settings import common_options, print_json, start_command

_EPILOG = """\b
Examples:
  echo 'eval "$(sarai completion bash)"' >> ~/.bashrc
  echo 'eval "$(sarai completion zsh)"' >> ~/.zshrc
  sarai completion fish > ~/.config/fish/completions/sarai.fish
"""


@click.command(epilog=_EPILOG, short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
def completion(shell: str) -> None:
    """Prints the script that completes `sarai` in SHELL: commands, options, names of skills."""
    from click.shell_completion import get_completion_class

    settings = start_command()
    completer = get_completion_class(shell)
    assert completer is not None
    root = click.get_current_context().find_root().command
    script = completer(root, {}, "sarai", "_SARAI_COMPLETE").source()
    if settings.json:
        print_json({"shell": shell, "script": script})
    else:
        sys.stdout.write(script + "\n")
