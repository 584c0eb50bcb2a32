"""Loads the Lua scripts: each file with its includes, arguments and rules filled in."""

import functools
import hashlib
import re
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Literal, NamedTuple

from redis.exceptions import NoScriptError

from dibs.store.redis.link import Link
from dibs.store.rules import Rules

_FOR_DRAGONFLY = "--!df flags=allow-undeclared-keys\n"
"""Elsewhere a comment. Dragonfly lets a script that begins with it build keys of its own."""
_INSIDE = "INSIDE()"
"""Each file is a function in the one that it includes: where that says so, else at its end. A run
makes all functions anew. One that captures a local of the chunk around it searches all that are
captured there; one that captures what that chunk has captured itself does not. So a claim costs a
tenth less."""
_INCLUDE = re.compile(r"^--- @include (\S+)\n", re.MULTILINE)
_ARGUMENT = re.compile(r"\b(ARG|AT)\.(\w+)")
_COUNTED = re.compile(r"\bARGV\[\d")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
Rates = Literal["claiming", "holding", "none"]
"""Which rates limit an act: of those who claim, of those who hold something, or none (what needs a
key, only reads, or is the service's own)."""


class Common(NamedTuple):
    """The arguments that every script of a project has before its own; see lua/common.lua."""

    witness_us: str
    lost_us: str
    stalls: str
    request: str
    session: str


class Misfit(Exception):
    """A script and its declaration do not fit one another: a mistake of ours, found at start."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script as it is sent."""

    name: str
    text: str
    sha: str

    @classmethod
    @functools.lru_cache(128)
    def load(
        cls, name: str, rules: Rules | None = None, arguments: tuple[str, ...] = ()
    ) -> "Script":
        """Read `name`.lua and what it includes. Raises Misfit.

        `arguments` are the names of all its arguments, in their order: ARG.task in a script is the
        argument `task`, and AT.tasks the number of the first of several.
        """
        text = _named(name, _read(name), arguments)
        if rules:
            text = rules.fill(text)
        text = _FOR_DRAGONFLY + text
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Declaration:
    """A script of a project, and what it is called with."""

    def __init__(
        self,
        name: str,
        arguments: type[NamedTuple] | None = None,
        *,
        several: str = "",
        rates: Rates = "claiming",
        lasting: str = "",
    ) -> None:
        """`arguments` names those of its own, each a text; `several` is how those that follow are
        called. Raises Misfit.

        `lasting` is the answer that says that something was done which no failover may forget.
        """
        self.name, self.rates, self.lasting = name, rates, lasting
        own: tuple[str, ...] = getattr(arguments, "_fields", ())
        self.arguments = (*Common._fields, *own, *([several] if several else []))
        self.fill(Rules())  # a script that does not fit is found here, and not by the first call

    def fill(self, rules: Rules) -> Script:
        """Return the script with its rules in it."""
        if self.rates == "holding":
            rules = replace(rules, holding=1)
        elif self.rates == "none":
            rules = replace(rules, rate_per_session=0, rate_per_project=0)
        return Script.load(self.name, rules, self.arguments)


def _read(name: str) -> str:
    folder = resources.files("dibs.store") / "lua"
    text = (folder / f"{name}.lua").read_text("utf-8")
    included = _INCLUDE.findall(text)
    text = _INCLUDE.sub("", text)
    for part in reversed(included):
        text = _around((folder / part).read_text("utf-8"), text)
    return text


def _around(outer: str, inner: str) -> str:
    """Return `outer` with the file that includes it in its place."""
    function = f"(function()\n{inner}\nend)()"
    if _INSIDE in outer:
        return outer.replace(_INSIDE, function)
    return f"{outer}\nreturn {function}"


def _named(name: str, text: str, arguments: tuple[str, ...]) -> str:
    used = {found[2] for found in _ARGUMENT.finditer(_COMMENT.sub("", text))}
    if unknown := sorted(used - set(arguments)):
        raise Misfit(f"{name}.lua uses arguments that nobody gives it: {', '.join(unknown)}.")
    if idle := [argument for argument in arguments if argument not in used]:
        raise Misfit(f"{name}.lua does not use what it is given: {', '.join(idle)}.")
    if _COUNTED.search(text):
        raise Misfit(f"{name}.lua counts its arguments: name them, as ARG.task.")
    number = {argument: at for at, argument in enumerate(arguments, 1)}

    def placed(found: "re.Match[str]") -> str:
        at = number[found[2]]
        return f"ARGV[{at}]" if found[1] == "ARG" else str(at)

    return _ARGUMENT.sub(placed, text)


async def run_script(link: Link, script: Script, key: str, args: Any) -> list[Any]:
    """Run `script` on `key`, loading it where the store does not know it (a restart, a flush)."""
    reply: list[Any]
    try:
        reply = await link.command("EVALSHA", script.sha, 1, key, *args)
    except NoScriptError:
        reply = await link.command("EVAL", script.text, 1, key, *args)
    return reply


async def run_replicated(link: Link, script: Script, key: str, args: Any) -> tuple[list[Any], bool]:
    """Run `script` on `key`; return its reply, and if enough replicas have what it wrote."""
    reply: list[Any]
    try:
        reply, enough = await link.replicated("EVALSHA", script.sha, 1, key, *args)
    except NoScriptError:
        reply, enough = await link.replicated("EVAL", script.text, 1, key, *args)
    return reply, enough
