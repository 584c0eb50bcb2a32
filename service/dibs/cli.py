"""The command `dibs`: `serve` is the service, every other word is the client's."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service or the client; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        return serve(arguments[1:])
    return int(client().main(arguments))


def client() -> Any:
    """Load the client, which is one file and no part of this package."""
    from dibs.api.pages import shipped

    spec = importlib.util.spec_from_file_location("dibs_client", shipped("client") / "dibs.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("the client's file is missing from this installation")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serve(arguments: Sequence[str]) -> int:
    """Run the service until it is told to stop."""
    from pydantic import ValidationError

    from dibs import serve as service
    from dibs.settings import Settings, unknown_variables

    flags = _parser().parse_args(arguments)
    given = {name: value for name, value in vars(flags).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for one in error.errors():
            name = "_".join(map(str, one["loc"])).upper()
            cause = one.get("ctx", {}).get("error", one["msg"])
            print(f"dibs serve: {f'DIBS_{name}: ' if name else ''}{cause}", file=sys.stderr)
        return 2
    for name in unknown_variables(os.environ):
        print(f"dibs serve: {name} is not a setting of dibs; it has no effect.", file=sys.stderr)
    return service.run(settings)


def _parser() -> argparse.ArgumentParser:
    from dibs.settings import Settings

    parser = argparse.ArgumentParser(
        prog="dibs serve",
        description="Serve claims over HTTP. Every flag is also an environment variable DIBS_….",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=None,
    )
    for name in ("host", "port", "data_dir", "redis_url", "workers", "public_url"):
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=None,
            metavar=name.upper(),
            help=Settings.model_fields[name].description,
        )
    parser.add_argument(
        "--memory",
        action="store_const",
        const=True,
        default=None,
        help=Settings.model_fields["memory"].description,
    )
    return parser
