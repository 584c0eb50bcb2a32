"""Loads the Lua scripts: each file with its includes, argument numbers and rules filled in."""

import functools
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal, NamedTuple

from redis.exceptions import NoScriptError

from dibs.store.library import Library, NoLibrary
from dibs.store.redis.functions import REFUSALS
from dibs.store.redis.link import Link, ServerLink
from dibs.store.rules import Rules

_FOR_DRAGONFLY = "--!df flags=allow-undeclared-keys\n"
"""First line that lets a script use undeclared keys in Dragonfly. Other servers see a comment."""
_INSIDE = "INSIDE()"
"""Marks where a file runs the file that includes it; without the mark, that is its end.

Each file is nested in a function of the file it includes. Lua looks up directly captured locals
faster, so a claim costs a tenth less. A function captures at most 60 of them."""
_INCLUDE = re.compile(r"^--- @include (\S+)\n", re.MULTILINE)
_ARGUMENT = re.compile(r"\b(ARG|AT)\.(\w+)")
_COUNTED = re.compile(r"\bARGV\[\d")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_FUNCTION_TRIES = 2
"""The second try is for a function that the server did not have yet."""
Rates = Literal["claiming", "holding", "none"]
"""The rates that limit an act: those of sessions that claim, those of sessions that hold something,
or none (an act that needs a key, only reads, or is the service's maintenance)."""


class Common(NamedTuple):
    """The first arguments of every script of a project; see lua/common.lua."""

    observed_us: str
    lost_us: str
    stalls: str
    request: str
    session: str


class ScriptMismatch(Exception):
    """A script and its declaration do not match: a defect in dibs, found at start."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script as it is sent to the store."""

    name: str
    text: str
    sha: str
    library: Library | None = None
    """The same script for stores that support functions."""

    @classmethod
    @functools.lru_cache(128)
    def load(
        cls,
        name: str,
        rules: Rules | None = None,
        arguments: tuple[str, ...] = (),
        *,
        often: bool = False,
    ) -> "Script":
        """Read `name`.lua and its includes. Raises ScriptMismatch.

        `arguments` are the names of all its arguments in order. In a script, ARG.task is the value
        of the argument `task`, and AT.tasks is the number of the first of several. A script that
        runs `often` has a library.
        """
        files = _files(name)
        _check(name, "\n".join(files), arguments)
        files = [_filled(text, rules, arguments) for text in files]
        text = _FOR_DRAGONFLY + _together(files)
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        try:
            library = Library.of(name, files, _INSIDE) if often else None
        except NoLibrary as unfit:
            raise ScriptMismatch(f"{name}.lua: {unfit}") from None
        return cls(name, text, sha, library)


class Declaration:
    """A script of a project with its arguments and rates."""

    def __init__(
        self,
        name: str,
        arguments: type[NamedTuple] | None = None,
        *,
        rates: Rates,
        several: str = "",
        lasting: str = "",
        often: bool = False,
    ) -> None:
        """Declare a script whose own arguments are the text fields of `arguments`, followed by any
        number of values under the name `several`. Raises ScriptMismatch.

        `lasting` is the tag of the answer that reports a change that no failover may lose.
        `often` marks the scripts that a store runs most.
        """
        self.name, self.rates, self.lasting, self.often = name, rates, lasting, often
        own: tuple[str, ...] = getattr(arguments, "_fields", ())
        self.arguments = (*Common._fields, *own, *([several] if several else []))
        self.fill(Rules())  # raises ScriptMismatch at import instead of at the first call

    def fill(self, rules: Rules) -> Script:
        """Return the script with the rules filled in."""
        if self.rates == "holding":
            rules = replace(rules, holding=1)
        elif self.rates == "none":
            rules = replace(rules, rate_per_session=0, rate_per_project=0)
        return Script.load(self.name, rules, self.arguments, often=self.often)


def _files(name: str) -> list[str]:
    """Return the texts of a script's files, the included ones first."""
    folder = resources.files("dibs.store") / "lua"
    text = (folder / f"{name}.lua").read_text("utf-8")
    included = [_text(folder / part) for part in _INCLUDE.findall(text)]
    return [*included, _INCLUDE.sub("", text)]


@functools.cache
def _text(file: Traversable) -> str:
    """Return the text of an included file; cached, because many scripts include it."""
    return file.read_text("utf-8")


def _together(files: Sequence[str]) -> str:
    """Return one script with each file nested in the one before."""
    *outer, text = files
    for part in reversed(outer):
        text = _around(part, text)
    return text


def _around(outer: str, inner: str) -> str:
    """Return `outer` with `inner`, the file that includes it, nested in it."""
    function = f"(function()\n{inner}\nend)()"
    if _INSIDE in outer:
        return outer.replace(_INSIDE, function)
    return f"{outer}\nreturn {function}"


def _check(name: str, text: str, arguments: tuple[str, ...]) -> None:
    """Raise ScriptMismatch where a script and its declared arguments differ."""
    used = {found[2] for found in _ARGUMENT.finditer(_COMMENT.sub("", text))}
    if unknown := sorted(used - set(arguments)):
        raise ScriptMismatch(
            f"{name}.lua uses arguments that are not declared: {', '.join(unknown)}."
        )
    if idle := [argument for argument in arguments if argument not in used]:
        raise ScriptMismatch(f"{name}.lua does not use declared arguments: {', '.join(idle)}.")
    if _COUNTED.search(text):
        raise ScriptMismatch(f"{name}.lua uses argument numbers: use names, as in ARG.task.")


def _filled(text: str, rules: Rules | None, arguments: tuple[str, ...]) -> str:
    """Return a file with its argument numbers and rules filled in."""
    number = {argument: at for at, argument in enumerate(arguments, 1)}

    def placed(found: "re.Match[str]") -> str:
        at = number.get(found[2], 0)  # 0: in a comment
        return f"ARGV[{at}]" if found[1] == "ARG" else str(at)

    text = _ARGUMENT.sub(placed, text)
    return rules.fill(text) if rules else text


def run_script(link: Link, script: Script, key: str, args: Any) -> Awaitable[list[Any]]:
    """Run `script` on `key`; load it first if the store lacks it (after a restart or a flush)."""
    return link.with_key(key, lambda server: _run(server, server.command, script, key, args))


def run_replicated(
    link: Link, script: Script, key: str, args: Any
) -> Awaitable[tuple[list[Any], bool]]:
    """Run `script` on `key`; return its reply, and whether enough replicas have its writes."""
    return link.with_key(key, lambda server: _run(server, server.replicated, script, key, args))


async def _run(
    server: ServerLink,
    give: Callable[..., Awaitable[Any]],
    script: Script,
    key: str,
    args: Any,
) -> Any:
    """Run a script on one server, as a function if the server supports functions."""
    library = script.library
    if library:
        for _ in range(_FUNCTION_TRIES):
            if not server.functions.used:
                break
            try:
                return await give("FCALL", library.name, 1, key, *args)
            except REFUSALS as error:
                if not await server.functions.amend(server, library, error):
                    raise
    try:
        return await give("EVALSHA", script.sha, 1, key, *args)
    except NoScriptError:
        return await give("EVAL", script.text, 1, key, *args)
