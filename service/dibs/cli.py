"""The command `dibs`: serving, copying and repairing are the service's, the rest the client's."""

import argparse
import importlib.util
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dibs.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service or the client; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        return serve(arguments[1:])
    if arguments[:1] in (["backup"], ["restore"], ["repair"]):
        return tend(arguments[0], arguments[1:])
    return int(client().main(arguments))


def client() -> Any:
    """Load the client, which is one file and no part of this package."""
    from dibs.shipped import shipped

    spec = importlib.util.spec_from_file_location("dibs_client", shipped("client") / "dibs.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("the client's file is missing from this installation")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serve(arguments: Sequence[str]) -> int:
    """Run the service until it is told to stop."""
    settings = _settings(_parser(), arguments)
    if settings is None:
        return 2
    from dibs import serve as service

    try:
        return service.run(settings)
    except KeyboardInterrupt:
        return 130


def tend(act: str, arguments: Sequence[str]) -> int:
    """Run `dibs backup FILE`, `dibs restore FILE` or `dibs repair`."""
    from pathlib import Path

    from dibs import backup
    from dibs.settings import Settings
    from dibs.store import log_repair
    from dibs.store.embedded import StoreUnavailable

    what = {
        "backup": "Copy the claims of a private store to FILE, whether it runs or not.",
        "restore": "Put the claims in FILE into a data directory that has none.",
        "repair": "Cut the damaged log of a private store to its last whole command. What is cut "
        "is kept in files beside the log. A log that is whole is left as it is.",
    }
    parser = argparse.ArgumentParser(prog=f"dibs {act}", description=what[act])
    if act != "repair":
        parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("DIBS_DATA_DIR") or Settings.model_fields["data_dir"].default),
        help="the private store's directory (DIBS_DATA_DIR; default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    try:
        match act:
            case "backup":
                print(backup.backup(given.data_dir, given.file))
            case "restore":
                print(backup.restore(given.data_dir, given.file))
            case _:
                print(log_repair.repair(given.data_dir))
    except StoreUnavailable as refusal:
        print(f"dibs {act}: {refusal}", file=sys.stderr)
        return 1
    return 0


def _settings(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> "Settings | None":
    """Return the settings, or None after one line for each that is wrong."""
    from pydantic import ValidationError

    from dibs.settings import load, unknown_variables
    from dibs.store.target import parse

    flags = parser.parse_args(arguments)
    given = {name: value for name, value in vars(flags).items() if value is not None}
    wrong = []
    settings = None
    try:
        settings = load(**given)
        if settings.redis_url:
            parse(settings.redis_url.get_secret_value())
    except ValidationError as error:
        for one in error.errors():  # their `input` may be a secret, so it is not shown
            name = f"DIBS_{one['loc'][0]}: ".upper() if one["loc"] else ""
            cause = str(one.get("ctx", {}).get("error", one["msg"]))
            wrong += [name + line for line in cause.splitlines()]
    except ValueError as error:
        wrong.append(f"DIBS_REDIS_URL: {error}")
    for line in wrong:
        print(f"{parser.prog}: {line}", file=sys.stderr)
    for name in unknown_variables(os.environ):
        print(f"{parser.prog}: {name} is not a setting of dibs; it has no effect.", file=sys.stderr)
    return None if wrong else settings


def _parser() -> argparse.ArgumentParser:
    """Return the flags of `dibs serve`: one for each setting that may be seen."""
    from dibs.settings import knobs

    secret = [f"  {knob.variable}\n      {knob.about}" for knob in knobs() if not knob.flag]
    parser = argparse.ArgumentParser(
        prog="dibs serve",
        description="Serve claims over HTTP. Every flag is also an environment variable: "
        "--default-ttl is DIBS_DEFAULT_TTL. Durations are seconds, or like 90s, 30m, 2h.",
        epilog="Only as environment variables:\n" + "\n".join(secret),
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    for knob in knobs():
        if not knob.flag:
            continue
        about = f"{knob.about} (default: {knob.default})".replace("%", "%%")
        if knob.default in ("on", "off"):
            parser.add_argument(
                knob.flag, action="store_const", const=True, default=None, help=about
            )
        else:
            parser.add_argument(knob.flag, default=None, metavar="…", help=about)
    return parser


class _Formatter(argparse.HelpFormatter):
    """Wraps the help of flags, and keeps the lines of the epilog."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=4, width=96)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            textwrap.fill(line, width, subsequent_indent=" " * (len(line) - len(line.lstrip())))
            for line in text.splitlines()
        )
