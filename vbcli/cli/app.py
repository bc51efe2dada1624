"""The root of the command line and the one place where errors become messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from vbcli import __version__
from vbcli.cli import answers, apply, ask, console, data, edit, features, find, look, models, quality, scores, speech, summaries, weights
from vbcli.errors import UsageError, VbcliError

app = typer.Typer(
    name="vbcli",
    help="From a folder of videos to captions: frames, features, a visual vocabulary, VideoBERT, BART.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        console.print_lines([f"vbcli {__version__}"])
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)] = False,
) -> None:
    """From a folder of videos to captions: frames, features, a visual vocabulary, VideoBERT, BART."""
    del version
    if context.invoked_subcommand is None:
        console.print_lines([context.get_help()])


def _add(name: str, command: Callable[..., None]) -> None:
    """Adds a command whose paths may be addresses of a store, such as s3://bucket/folder."""

    @wraps(command)
    def run(**arguments: Any) -> None:
        from vbcli.storage import as_path, store_errors
        from vbcli.workers import spare_pandas

        spare_pandas()

        def located(value: Any) -> Any:
            if isinstance(value, list):
                return [located(entry) for entry in value]
            return as_path(value) if isinstance(value, Path) else value

        try:
            command(**{key: located(value) for key, value in arguments.items()})
        except store_errors() as error:
            raise VbcliError(
                f"a store cannot be used: {error}", hint="its package reads keys and addresses from the environment"
            ) from error

    app.command(name)(run)


_add("transcribe", speech.transcribe)
_add("extract", data.extract)
_add("encode", data.encode)
_add("import-features", features.import_features)
_add("build-vocab", data.build_vocab)
_add("tokenize", data.tokenize)
_add("measure", quality.measure)
_add("filter", quality.filter_rows)
_add("train", models.train)
_add("caption", apply.caption)
_add("classify", apply.classify)
_add("index", find.index)
_add("search", find.search)
_add("answer", answers.answer)
_add("summarize", summaries.summarize)
_add("edit", edit.edit)
_add("predict", ask.predict)
_add("import", weights.import_model)
_add("export", weights.export)
_add("evaluate", scores.evaluate)
_add("inspect", look.inspect)
_add("validate", look.validate)
_add("demo-data", data.demo_data)


# What Typer makes of an interrupt.
_INTERRUPTED = 130


def main() -> None:
    """Runs the command line; exit status 0 done, 1 error, 2 usage, 3 finished but some items failed."""
    # A thread that waits by spinning takes the core that others need: on a busy machine a step took 200 to 2,000 ms instead of 75. One that
    # sleeps at once is woken late: 98 ms on an idle one. So it spins for some microseconds (60 to 75 ms idle, 120 busy), then sleeps.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        status = app(standalone_mode=False)
    except typer.TyperException as error:
        _refuse(error)
    except VbcliError as error:
        if os.environ.get("VBCLI_DEBUG"):
            raise
        if isinstance(error, UsageError) and not error.hint:
            error.hint = f"see vbcli {sys.argv[1]} --help"
        console.show_error(error)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        # The reader of our output closed it: there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    else:
        if status == _INTERRUPTED:
            console.note("interrupted: what is finished stays; the same command goes on from there")
        sys.exit(status)


def _refuse(error: typer.TyperException) -> NoReturn:
    """Ends with a usage error in the form of all other errors."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "vbcli"
    # The words before a wrong choice are of the package that Typer asks.
    message = error.format_message().replace("Value error, ", "").strip().rstrip(".")
    console.show_error(UsageError(message, hint=f"see {command} --help"))
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
