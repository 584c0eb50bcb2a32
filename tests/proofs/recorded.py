"""`dibs`, with scripts that also write down what they were asked and what they answered.

They do so in the store, in the same atomic step, so that what is written is what took effect, in
the order in which it did, whoever heard of it. Run as `python recorded.py serve …`.
"""

import sys
from dataclasses import replace
from hashlib import sha1

from dibs.cli import main
from dibs.store import Rules, scripts

WITNESS = ".witness"
"""Behind what a project's keys begin with, so that a cluster has it where the project is."""
WRITTEN = ("claim", "heartbeat", "release", "break", "sweep")
_WRAPPED = """
local function act() %s
end
local reply = act()
redis.call('RPUSH', KEYS[1] .. '{key}', cjson.encode({{'{name}', ARGV, reply}}))
return reply
"""


def wrapped(script: scripts.Script) -> scripts.Script:
    """The same script, which writes its answer down before it gives it."""
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
