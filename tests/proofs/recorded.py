"""`dibs` with scripts that also record their arguments and answers.

They record them in the store, in the same atomic step, so the record has every act that took
effect, in that order, even if no client saw the answer. Run as `python recorded.py serve …`.
"""

import sys
from dataclasses import replace
from hashlib import sha1

from dibs.cli import main
from dibs.store import Rules, scripts

WITNESS = ".witness"
"""The key of the record after a project's prefix, so that a cluster keeps it with the project."""
WRITTEN = ("claim", "heartbeat", "release", "break", "sweep")
_WRAPPED = """
local function act() %s
end
local reply = act()
redis.call('RPUSH', KEYS[1] .. '{key}', cjson.encode({{'{name}', ARGV, reply}}))
return reply
"""


def wrapped(script: scripts.Script) -> scripts.Script:
    """Return the same script, which records its answer before it returns it."""
    tail = _WRAPPED.split("%s")
    text = tail[0] + script.text + tail[1].format(key=WITNESS, name=script.name)
    return replace(script, text=text, sha=sha1(text.encode(), usedforsecurity=False).hexdigest())


if __name__ == "__main__":
    plain = scripts.Script.load

    def load(
        name: str,
        rules: Rules | None = None,
        arguments: tuple[str, ...] = (),
        *,
        often: bool = False,
    ) -> scripts.Script:
        script = plain(name, rules, arguments, often=often and name not in WRITTEN)
        return wrapped(script) if name in WRITTEN else script

    scripts.Script.load = load  # type: ignore[method-assign,assignment]
    sys.exit(main(sys.argv[1:]))
