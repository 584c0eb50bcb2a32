"""Loads the Lua scripts: each file with its includes, arguments and rules filled in."""

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
"""Elsewhere a comment. Dragonfly lets a script that begins with it build keys of its own."""
_INSIDE = "INSIDE()"
"""Each file is nested in the function of the file it includes, at INSIDE() or at its end. Lua looks
up directly captured locals faster, so a claim costs a tenth less.
A function captures 60 of them at most."""
_INCLUDE = re.compile(r"^--- @include (\S+)\n", re.MULTILINE)
_ARGUMENT = re.compile(r"\b(ARG|AT)\.(\w+)")
_COUNTED = re.compile(r"\bARGV\[\d")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_FUNCTION_TRIES = 2
"""The second is for one that the server did not know."""
Rates = Literal["claiming", "holding", "none"]
"""Which rates limit an act: of those who claim, of those who hold something, or none (what needs a
key, only reads, or is the service's own)."""


class Common(NamedTuple):
    """The arguments that every script of a project has before its own; see lua/common.lua."""

    observed_us: str
    lost_us: str
    stalls: str
    request: str
    session: str


class ScriptMismatch(Exception):
    """A script and its declaration do not fit one another: a mistake of ours, found at start."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script as it is sent."""

    name: str
    text: str
    sha: str
    library: Library | None = None
    """The same for stores that keep functions."""

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
        """Read `name`.lua and what it includes. Raises ScriptMismatch.

        `arguments` are the names of all its arguments, in their order: ARG.task in a script is the
        argument `task`, and AT.tasks the number of the first of several. One that runs `often`
        has a library.
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
    """A script of a project, and what it is called with."""

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
        """`arguments` names those of its own, each a text; `several` is how those that follow are
        called. Raises ScriptMismatch.

        `lasting` is the answer that says that something was done which no failover may forget;
        `often`: it is what a store has most to do with.
        """
        self.name, self.rates, self.lasting, self.often = name, rates, lasting, often
        own: tuple[str, ...] = getattr(arguments, "_fields", ())
        self.arguments = (*Common._fields, *own, *([several] if several else []))
        self.fill(Rules())  # a script that does not fit is found here, and not by the first call

    def fill(self, rules: Rules) -> Script:
        """Return the script with its rules in it."""
        if self.rates == "holding":
            rules = replace(rules, holding=1)
        elif self.rates == "none":
            rules = replace(rules, rate_per_session=0, rate_per_project=0)
        return Script.load(self.name, rules, self.arguments, often=self.often)


def _files(name: str) -> list[str]:
    """Return the files of a script, those that it includes first."""
    folder = resources.files("dibs.store") / "lua"
    text = (folder / f"{name}.lua").read_text("utf-8")
    included = [_text(folder / part) for part in _INCLUDE.findall(text)]
    return [*included, _INCLUDE.sub("", text)]


@functools.cache
def _text(file: Traversable) -> str:
    """Return what many scripts include."""
    return file.read_text("utf-8")


def _together(files: Sequence[str]) -> str:
    """Return a script: each file in the one before."""
    *outer, text = files
    for part in reversed(outer):
        text = _around(part, text)
    return text


def _around(outer: str, inner: str) -> str:
    """Return `outer` with the file that includes it in its place."""
    function = f"(function()\n{inner}\nend)()"
    if _INSIDE in outer:
        return outer.replace(_INSIDE, function)
    return f"{outer}\nreturn {function}"


def _check(name: str, text: str, arguments: tuple[str, ...]) -> None:
    """Raise ScriptMismatch where a script and what it is given do not fit."""
    used = {found[2] for found in _ARGUMENT.finditer(_COMMENT.sub("", text))}
    if unknown := sorted(used - set(arguments)):
        raise ScriptMismatch(
            f"{name}.lua uses arguments that nobody gives it: {', '.join(unknown)}."
        )
    if idle := [argument for argument in arguments if argument not in used]:
        raise ScriptMismatch(f"{name}.lua does not use what it is given: {', '.join(idle)}.")
    if _COUNTED.search(text):
        raise ScriptMismatch(f"{name}.lua counts its arguments: name them, as ARG.task.")


def _filled(text: str, rules: Rules | None, arguments: tuple[str, ...]) -> str:
    """Return a file with its arguments and rules in it."""
    number = {argument: at for at, argument in enumerate(arguments, 1)}

    def placed(found: "re.Match[str]") -> str:
        at = number.get(found[2], 0)  # 0: in a comment
        return f"ARGV[{at}]" if found[1] == "ARG" else str(at)

    text = _ARGUMENT.sub(placed, text)
    return rules.fill(text) if rules else text


def run_script(link: Link, script: Script, key: str, args: Any) -> Awaitable[list[Any]]:
    """Run `script` on `key`, loading it where the store does not know it (a restart, a flush)."""
    return link.with_key(key, lambda server: _run(server, server.command, script, key, args))


def run_replicated(
    link: Link, script: Script, key: str, args: Any
) -> Awaitable[tuple[list[Any], bool]]:
    """Run `script` on `key`; return its reply, and if enough replicas have what it wrote."""
    return link.with_key(key, lambda server: _run(server, server.replicated, script, key, args))


async def _run(
    server: ServerLink,
    give: Callable[..., Awaitable[Any]],
    script: Script,
    key: str,
    args: Any,
) -> Any:
    """Run a script at one server, as a function where that keeps any."""
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
