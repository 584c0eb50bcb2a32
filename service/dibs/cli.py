"""The command `dibs`: serve, backup, restore, repair, purge and token; the client has the rest."""

import argparse
import importlib.util
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dibs.settings import Settings


BESIDE = """\
Where the service runs, each with --help:
  dibs serve                              the service, with a private store or DIBS_REDIS_URL
  dibs backup FILE | restore FILE         copy the claims of a private store | restore them
  dibs repair                             cut a damaged log where the damage begins
  dibs token PROJECT | purge PROJECT      make a key for one project | delete a project"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service or the client; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        return serve(arguments[1:])
    if arguments[:1] in (["backup"], ["restore"], ["repair"]):
        return tend(arguments[0], arguments[1:])
    if arguments[:1] in (["purge"], ["token"]):
        return administer(arguments[0], arguments[1:])
    code = int(client().main(arguments))
    if arguments[:1] in (["--help"], ["-h"], ["help"]):
        print(BESIDE)
    return code


def client() -> Any:
    """Load the client, which is not part of this package, under the name its files import."""
    from dibs.package_files import package_folder

    name, path = "dibs_client", package_folder("client") / "dibs.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError("the client's file is missing from this installation")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serve(arguments: Sequence[str]) -> int:
    """Run the service until a signal stops it."""
    parser = _parser()
    flags = vars(parser.parse_args(arguments))
    given = {name: value for name, value in flags.items() if value is not None}
    settings = _settings(parser.prog, given)
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

    from dibs.settings import Settings
    from dibs.store.local import backup, log_repair
    from dibs.store.local.embedded import StoreUnavailable

    what = {
        "backup": "Copy the claims of a private store to FILE. The store may be running.",
        "restore": "Restore the claims from FILE into a data directory that has none.",
        "repair": "Cut the damaged log of a private store after its last complete command. The "
        "part cut off is kept in files next to the log. An undamaged log is left as it is.",
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


def administer(act: str, arguments: Sequence[str]) -> int:
    """Run `dibs purge PROJECT` or `dibs token PROJECT`."""
    from dibs import model
    from dibs.api import tokens
    from dibs.purge import purge
    from dibs.store.local.embedded import StoreUnavailable

    what = {
        "purge": "Delete a project: its claims, events and counts. This cannot be undone.",
        "token": "Make a token that opens one project, with the admin key in DIBS_ADMIN_KEY.",
    }
    parser = argparse.ArgumentParser(prog=f"dibs {act}", description=what[act])
    parser.add_argument("project", metavar="PROJECT")
    if act == "token":
        about = "how long the token is valid: 12h, 90d (default: 90d)"
        parser.add_argument("--for", dest="lasts", metavar="SPAN", default="90d", help=about)
    given = parser.parse_args(arguments)
    settings = _settings(parser.prog, {})
    if settings is None:
        return 2
    try:
        project = model.project(given.project)
        if act == "token":
            if not settings.admin_key:
                print("dibs token: set DIBS_ADMIN_KEY to an admin key first", file=sys.stderr)
                return 2
            admin_key = settings.admin_key[0].get_secret_value()
            print(tokens.make(admin_key, project, _span_s(given.lasts)))
            return 0
        url = settings.redis_url.get_secret_value() if settings.redis_url else None
        print(purge(project, redis_url=url, data_dir=settings.data_dir))
    except model.Refused as refused:
        print(f"dibs {act}: {refused}", file=sys.stderr)
        return 2
    except StoreUnavailable as refusal:
        print(f"dibs {act}: {refusal}", file=sys.stderr)
        return 1
    return 0


def _span_s(text: str) -> int:
    """Return the seconds of 90d or of any other duration. Raises model.Refused."""
    from dibs import model

    if text.endswith("d") and text[:-1].isascii() and text[:-1].isdigit():
        return int(text[:-1][:6]) * 86_400
    return model.duration_s(text, "A span (like 12h or 90d)")


def _settings(prog: str, given: Mapping[str, Any]) -> "Settings | None":
    """Return the settings, with flags `given`; None after a line for each fault."""
    from pydantic import ValidationError

    from dibs.environment import blank_variables, unknown_variables
    from dibs.settings import load
    from dibs.store.redis.store_url import parse

    blank = [name for name in blank_variables() if name.removeprefix("DIBS_").lower() not in given]
    wrong = [f"{name} is set but empty: give it a value, or unset it" for name in blank]
    empty = [name for name, value in given.items() if isinstance(value, str) and not value.strip()]
    flags = [f"--{name.replace('_', '-')}" for name in empty]
    wrong += [f"{flag} is empty: give it a value, or leave it out" for flag in flags]
    given = {name: value for name, value in given.items() if name not in empty}
    settings = None
    try:
        settings = load(**given)
        if settings.redis_url:
            parse(settings.redis_url.get_secret_value())
    except ValidationError as error:
        for one in error.errors():  # their `input` may be a secret, so it is not shown
            name = f"DIBS_{one['loc'][0]}".upper() if one["loc"] else ""
            cause = str(one.get("ctx", {}).get("error", one["msg"]))
            lines = [f"{name}: {line}" if name else line for line in cause.splitlines()]
            wrong += [line for line in lines if not any(each in line for each in blank)]
    except ValueError as error:
        if "DIBS_REDIS_URL" not in blank:
            wrong.append(f"DIBS_REDIS_URL: {error}")
    for line in wrong:
        print(f"{prog}: {line}", file=sys.stderr)
    for name in unknown_variables(os.environ):
        print(f"{prog}: {name} is not a setting of dibs; it has no effect.", file=sys.stderr)
    return None if wrong else settings


def _parser() -> argparse.ArgumentParser:
    """Return the parser of `dibs serve`, with a flag for each setting that is not a secret."""
    from dibs.settings import knobs

    secret = [f"  {knob.variable}\n      {knob.about}" for knob in knobs() if not knob.flag]
    parser = argparse.ArgumentParser(
        prog="dibs serve",
        description="Serve claims over HTTP. Every flag is also an environment variable: "
        "--default-ttl is DIBS_DEFAULT_TTL. A duration is seconds, or text like 90s, 30m, 2h.",
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
    """A formatter that wraps the help of flags and keeps the lines of the epilog."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=4, width=96)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            textwrap.fill(line, width, subsequent_indent=" " * (len(line) - len(line.lstrip())))
            for line in text.splitlines()
        )
