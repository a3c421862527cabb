"""The command `sarai`: its subcommands, including those of plugins, and its handling of errors."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from core.cli.autoscale import autoscale
from core.cli.cache import cache
from core.cli.chat import chat
from core.cli.common import ExitCode, Settings, common_options, exit_code_of, print_json, start_command
from core.cli.containers import down, logs, ps
from core.cli.doctor import doctor
from core.cli.draft import draft
from core.cli.health import health
from core.cli.loop import loop
from core.cli.models import models
from core.cli.new_skill import new_skill
from core.cli.serve import serve
from core.cli.skills import skills
from core.cli.streams import OutputError, checked_output, open_closed_streams, tell_lost_output
from core.cli.up import up

_EPILOG = """\b
Examples:
  sarai loop "Explain how a rainbow forms"
  git diff | sarai draft "Write a commit message for this"
  sarai chat --system "You answer in one sentence."
  sarai up && sarai health --watch

\b
Environment (an option goes before its variable; each command names its own):
  SARAI_SKILL           the skill that is asked
  SARAI_<NAME>_TARGET   the address of a skill, for example SARAI_DRAFT_TARGET=localhost:50051
  SARAI_LOG_LEVEL       debug, info, warning or error
  NO_COLOR, FORCE_COLOR no colours, or colours in any case

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 unhealthy or unavailable, 130 Ctrl-C.
"""


class SaraiGroup(click.Group):
    """The built-in commands and those of plugins, which are loaded only when needed."""

    _has_plugins = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        self._add_plugins()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name. A built-in one is found without loading plugins."""
        command = super().get_command(ctx, cmd_name)
        if command is None:
            self._add_plugins()
            command = super().get_command(ctx, cmd_name)
        return command

    def _add_plugins(self) -> None:
        if self._has_plugins:
            return
        self._has_plugins = True
        from core.plugins import get_plugins

        own = dict(self.commands)
        for plugin in get_plugins().hook.sarai_commands.get_hookimpls():
            try:
                plugin.function(self)
            except Exception as error:  # noqa: BLE001  # a plugin is foreign code; the other commands work
                print(f"commands of plugin {plugin.plugin_name} are left out: {error!r}", file=sys.stderr)
        self.commands.update(own)  # a plugin adds commands; it does not replace built-in ones


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        import importlib.metadata

        try:
            click.echo(f"sarai {importlib.metadata.version('sarai-skills')}")
        except importlib.metadata.PackageNotFoundError:
            click.echo("sarai (from a source tree that is not installed)")
        ctx.exit()


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=SaraiGroup, epilog=_EPILOG, context_settings=_CONTEXT)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
@common_options
def cli() -> None:
    """Language-model skills on this machine's CPUs.

    A skill that is not running anywhere is started as a local process for as long as the command takes. The answer
    goes to standard output, everything else to standard error.
    """


_COMPLETION_EPILOG = """\b
Examples:
  echo 'eval "$(sarai completion bash)"' >> ~/.bashrc
  echo 'eval "$(sarai completion zsh)"' >> ~/.zshrc
  sarai completion fish > ~/.config/fish/completions/sarai.fish
"""


@click.command(epilog=_COMPLETION_EPILOG, short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
def completion(shell: str) -> None:
    """Print the script that completes `sarai` in SHELL: commands, options, names of skills."""
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


for _command in (
    loop, draft, chat, serve, skills, models, doctor, health, cache,
    up, down, autoscale, ps, logs, new_skill, completion,
):  # fmt: skip
    cli.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit code."""
    open_closed_streams()
    try:
        with checked_output():
            return _run(argv, Settings())
    except OutputError as error:
        tell_lost_output(error)
        return ExitCode.FAILED


def _run(argv: Sequence[str] | None, settings: Settings) -> int:
    try:
        result = cli.main(args=argv, prog_name="sarai", standalone_mode=False, obj=settings)
    except click.Abort:  # Ctrl-C, in click's words
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:  # a second one, during the handling of the first
        return ExitCode.INTERRUPTED
    except OutputError:
        raise
    # The last resort: no traceback unless the user asks for one.
    except Exception as error:  # noqa: BLE001
        return _report(error, settings)
    return result if isinstance(result, int) else ExitCode.OK


def _report(error: Exception, settings: Settings) -> int:
    from core.errors import SaraiError, one_line

    if settings.traceback:
        traceback.print_exception(error)
    if isinstance(error, SaraiError):
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return exit_code_of(error)
    print(f"error: {type(error).__name__}: {one_line(str(error))}", file=sys.stderr)
    if not settings.traceback:
        print("This was not foreseen. With --debug it shows where it comes from.", file=sys.stderr)
    return ExitCode.FAILED
