"""The command line: one file a command, wired together here."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from mmkd.cli.cache_export import cache_export
from mmkd.cli.cache_import import cache_import
from mmkd.cli.cache_inspect import cache_inspect
from mmkd.cli.cache_teacher import cache_teacher
from mmkd.cli.cache_verify import cache_verify
from mmkd.cli.console import printable, process_rank
from mmkd.cli.demo import demo
from mmkd.cli.doctor import doctor
from mmkd.cli.eval_bias import bias
from mmkd.cli.eval_probe import probe
from mmkd.cli.eval_retrieval import retrieval
from mmkd.cli.eval_zero_shot import zero_shot
from mmkd.cli.export import export
from mmkd.cli.list_runs import runs
from mmkd.cli.option_groups import SectionedCommand
from mmkd.cli.options import Debug
from mmkd.cli.plan import PlanCommand, plan
from mmkd.cli.push import push
from mmkd.cli.report import report
from mmkd.cli.study import study
from mmkd.cli.train import train
from mmkd.errors import MmkdError

app = typer.Typer(
    name="mmkd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is drawn in half the time,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache = typer.Typer(no_args_is_help=True, help="Look into a cache, check it, mend it.")
evaluate = typer.Typer(no_args_is_help=True, help="Judge a student beside its teacher, against chance.")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mmkd {version('mmkd')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and leave.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Make a CLIP smaller: cache a teacher once, distil half-depth students against it, judge them honestly.

    \b
    Each command takes what the one before wrote:
      mmkd cache-teacher
      accelerate launch mmkd train --kd mse+cos
      mmkd eval zero-shot
      mmkd eval bias

    \b
    No model or data at hand? The whole of it offline, in minutes:
      mmkd demo
    """


app.command("cache-teacher", cls=SectionedCommand)(cache_teacher)
cache.command("inspect")(cache_inspect)
cache.command("verify")(cache_verify)
cache.command("import")(cache_import)
cache.command("export")(cache_export)
app.add_typer(cache, name="cache")
app.command("plan", cls=PlanCommand)(plan)
app.command("train", cls=SectionedCommand)(train)
app.command("study", cls=SectionedCommand)(study)
evaluate.command("zero-shot")(zero_shot)
evaluate.command("retrieval")(retrieval)
evaluate.command("probe")(probe)
evaluate.command("bias")(bias)
app.add_typer(evaluate, name="eval")
app.command("runs")(runs)
app.command("report")(report)
app.command("push")(push)
app.command("export")(export)
app.command("demo")(demo)
app.command("doctor")(doctor)


def run(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process: 0 done, 1 failed, 2 wrong option, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("MMKD_DEBUG", "0") not in {"", "0"}
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not debug and not os.environ.get("MMKD_VERBOSE"):
        from mmkd.cli.quiet import hush

        hush()
    sys.exit(_guarded(lambda: app(arguments, prog_name="mmkd", standalone_mode=False), debug=debug))


def _guarded(command: Callable[[], Any], *, debug: bool) -> int:
    try:
        code = command()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(*_explain(error))
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> tuple[str, int]:
    """One line for a person, and the exit code."""
    text = str(error)
    if isinstance(error, MmkdError):
        return _innermost(text), 1
    if hasattr(error, "format_message"):  # Typer's own: a wrong option, a missing argument
        return _usage(error), 2
    if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "No space left on device" in text:
        where = getattr(error, "filename", None)
        return (
            f"the disk is full{f' (writing {where})' if where else ''}; free some space and run this again",
            1,
        )
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}", 1
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{what} · run again with --debug for the traceback; please report it", 1


def _innermost(text: str) -> str:
    # A DataLoader worker wraps the message in its traceback, whose last line is the message.
    if "Original Traceback" in text:
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return text


def _usage(error: Any) -> str:
    if type(error).__name__ == "NoArgsIsHelpError":  # `mmkd` alone: the help, and nothing to add
        error.show()
        return ""
    message = error.format_message().rstrip(".")
    path = error.ctx.command_path if getattr(error, "ctx", None) else "mmkd"
    return f"{message} ({path} --help)"


def _fail(message: str, code: int) -> int:
    rank = process_rank()
    who = f"mmkd (process {rank})" if rank else "mmkd"
    if message:
        # In one write: other processes of the same launch may be writing theirs.
        sys.stderr.write(f"{who}: {printable(message, limit=2000)}\n")
    return code
