"""The command line's root: which commands there are, how errors are shown, what the exit code is.

Imports click and the errors, nothing else: a command's module is imported when it is used, so that `--help`
and `--version` answer at once.
"""

import errno
import importlib
import os
import signal
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from launcher.cli.signals import asked_lately, heed, interrupted_code
from launcher.errors import Exit, RetrainError

PROGRAM = "retrain"
COMMANDS = {
    "run": "Train: pack, rent, watch, bring everything home, end the pod.",
    "attach": "Follow a run that is on its way.",
    "status": "Show runs, their pods and what they cost.",
    "cancel": "End a run and its pod, keep what was saved.",
    "reconcile": "Look after all open runs once, for cron and CI.",
    "reap": "End pods that nobody looks after: past their deadline, or of a run that is over.",
    "doctor": "Check that this machine can run what is configured.",
    "init": "Write a retrain.toml that explains every setting.",
    "check": "List what is wrong with a data set.",
    "pack": "Write a data set as the zip that a pod gets.",
}
"""Name → one line of help. The command is `command` in the module `launcher.cli.<name>`."""

_PIPE_CLOSED = 128 + signal.SIGPIPE


class _Commands(click.Group):
    """Knows its commands by name and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command = importlib.import_module(f"launcher.cli.{cmd_name}").command
            assert isinstance(command, click.Command)
            return command
        from difflib import get_close_matches

        near = get_close_matches(cmd_name, COMMANDS, n=1)
        ctx.fail(f"there is no command {cmd_name!r}" + (f"; did you mean {near[0]}?" if near else ""))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: ARG001, FBT001
    if value:
        from importlib.metadata import version

        click.echo(f"{PROGRAM} {version(PROGRAM)}")
        ctx.exit()


@click.group(PROGRAM, cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
def root(*, debug: bool) -> None:
    """Retrain a LoRA on a rented GPU: checked data, a dollar cap, all checkpoints home, nothing left running.

    Exit codes: 0 done; 2 usage or configuration; 3 dataset refused; 4 over budget, nothing spent; 5 training
    failed; 6 infrastructure failed; 7 results incomplete; 8 LEAKED, a pod may still run; 9 cancelled.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code. `arguments` are the process's unless given."""
    heed()
    code = execute(sys.argv[1:] if arguments is None else arguments)
    _drop_what_nobody_reads()
    sys.exit(code)


def execute(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; whatever goes wrong becomes a sentence on stderr."""
    debug = False
    try:
        with root.make_context(PROGRAM, list(arguments)) as context:
            debug = bool(context.params.get("debug"))
            code = root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return Exit.USAGE
    except click.ClickException as exc:
        command = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else PROGRAM
        _complain(exc.format_message(), f"{command} --help")
        return Exit.USAGE
    except RetrainError as exc:
        _complain(str(exc), exc.next_step)
        return exc.exit_code
    except (KeyboardInterrupt, click.Abort) as exc:
        # Not Exit.CANCELLED: that says of a run that it has ended.
        _complain("interrupted", "")
        return interrupted_code(exc)
    except Exception as exc:  # noqa: BLE001 - the last resort; everything expected was translated before
        if (asked := asked_lately()) is not None:
            _complain("interrupted", "")
            return interrupted_code(asked)
        if _nobody_reads(exc):
            return _PIPE_CLOSED
        _report_crash(exc, debug=debug)
        return Exit.INFRASTRUCTURE
    return code if isinstance(code, int) else Exit.DONE


def _drop_what_nobody_reads() -> None:
    """Python would try to write what is buffered once more at exit, fail, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(sentence: str, next_step: str) -> None:
    with suppress(OSError):  # nobody may be listening; the exit code still tells
        click.echo(f"{PROGRAM}: {sentence}", err=True)
        if next_step:
            click.echo(f"  next: {next_step}", err=True)


def _nobody_reads(error: Exception) -> bool:
    """Whether who read our output left: a pipe's reader, or the terminal that was closed."""
    if isinstance(error, BrokenPipeError):
        return True
    if not isinstance(error, OSError) or error.errno != errno.EIO:
        return False
    # A disk may say EIO, too; of a terminal that is gone even the question whether it is one fails.
    output = sys.stdout.fileno()
    return stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output)


def _report_crash(error: Exception, *, debug: bool) -> None:
    from launcher.cli import crash

    what = f"unexpected {type(error).__name__}, a bug in retrain"
    if debug:
        _complain(what, "")
        click.echo(crash.trace_of(error), err=True, nl=False)
        return
    _complain(what, crash.keep(error))


if __name__ == "__main__":
    main()
