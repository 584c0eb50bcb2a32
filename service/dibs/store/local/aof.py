"""The files of the private store's append-only log, and their format.

A log consists of a manifest and the files that it names: a base, replaced by each rewrite, and one
or more incremental files written since. All contain commands as text (RESP), one after the other:

    *3 CRLF $3 CRLF SET CRLF $3 CRLF key CRLF $5 CRLF value CRLF

Redis before version 7 has one file and no manifest.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

LOGS = "appendonlydir"
MANIFEST = "appendonly.aof.manifest"
SINGLE = "appendonly.aof"
_NAMED = re.compile(r"^file (\S+) seq \d+ type ([bi])\b", re.M)

_LINE = 32  # bytes: longer than any line with a count or a length
_COUNT = re.compile(rb"\*([1-9]\d{0,8})\r\n")
_LENGTH = re.compile(rb"\$(0|[1-9]\d{0,9})\r\n")
_BEGUN = re.compile(rb"[*$]\d{0,10}\r?")
_AT_ONCE = 1 << 16
_STAMP = re.compile(rb"#TS:\d+\r\n")
ANOTHER = re.compile(rb"\r\n\*[1-9]\d{0,8}\r\n\$")
"""The boundary between two commands; a value contains it only if a client wrote it there."""

# The commands that may occur in a log, by their least number of words, name included. Any other
# name means damage: a server would not load it.
_BY_FEWEST = {
    1: "exec flushall flushdb multi",
    2: "bitfield decr del function getdel getex incr lpop persist pfadd pfcount pfmerge rpop "
    "select sort spop unlink xgroup zpopmax zpopmin",
    3: "append blpop brpop bzpopmax bzpopmin copy decrby delifeq expire expireat getset "
    "hdel incrby incrbyfloat lpush lpushx move mset msetnx pexpire pexpireat pfdebug "
    "rename renamenx rpoplpush rpush rpushx sadd sdiffstore set setnx sinterstore "
    "srem sunionstore swapdb xdel xsetid zrem",
    4: "bitop brpoplpush hincrby hincrbyfloat hmset hset hsetnx lmpop lrem lset ltrim "
    "msetex psetex restore restore-asking setbit setex setrange smove xack xtrim zadd "
    "zdiffstore zincrby zinterstore zmpop zremrangebylex zremrangebyrank "
    "zremrangebyscore zunionstore",
    5: "blmpop bzmpop geoadd georadiusbymember hgetdel hgetex hpersist linsert lmove "
    "xadd zrangestore",
    6: "blmove georadius hexpire hexpireat hpexpire hpexpireat hsetex migrate xautoclaim xclaim",
    7: "xreadgroup",
    8: "geosearchstore",
}
FEWEST = {name.encode(): words for words, names in _BY_FEWEST.items() for name in names.split()}


@dataclass(frozen=True)
class Part:
    """One file of a log."""

    path: Path
    is_base: bool

    @property
    def size(self) -> int:
        """The file's size in bytes, 0 if it does not exist."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0


def parts(directory: Path) -> list[Part]:
    """Return the files of the log in a data directory, in the order of loading; [] without a log.

    Raises FileNotFoundError if the log's manifest is missing.
    """
    logs = directory / LOGS
    if logs.is_dir():
        named = _NAMED.findall((logs / MANIFEST).read_text(errors="replace"))
        return [Part(logs / name, kind == "b") for name, kind in named]
    single = directory / SINGLE
    return [Part(single, is_base=False)] if single.exists() else []


@dataclass(frozen=True)
class Scan:
    """The result of reading a file of a log. Offsets are in bytes from its start."""

    size: int
    commands: int
    """Number of complete commands from the start; those of a transaction only if it is complete."""
    kept: int
    """Offset of the end of the last of these commands."""
    broken: int
    """Offset of the first incomplete or damaged command."""
    end: int
    """Offset of the trailing zeros that a power loss left; the size if there are none."""
    fault: Literal["", "short", "damaged"]
    """short: the file ends within a command. damaged: its text is not a command."""
    why: str = ""


class _Short(Exception):
    pass


class _Damaged(Exception):
    pass


def scan(path: Path) -> Scan:
    """Read a file of a log up to its first fault, at about 15 MB a second.

    A file in RDB format (it begins with REDIS) counts as complete.
    """
    with open(path, "rb", buffering=1 << 20) as log:
        size = log.seek(0, 2)
        end = _end_of_text(log, size)
        log.seek(0)
        if log.read(5) == b"REDIS":
            return Scan(size, 0, size, size, size, "")
        log.seek(0)
        reader = _Reader(log, end)
        at = kept = commands = pending = 0
        before = (0, 0)
        transaction = False
        while at < end:
            try:
                name = reader.command()
            except _Short as short:
                return Scan(size, commands, kept, at, end, "short", str(short))
            except _Damaged as damaged:
                if reader.starts_with_a_word(at) and not transaction:
                    kept, commands = before  # the last command declared too few words
                return Scan(size, commands, kept, at, end, "damaged", str(damaged))
            at = reader.at
            pending += bool(name)
            transaction = name == b"multi" or (transaction and name != b"exec")
            if not transaction:
                before = kept, commands
                kept, commands, pending = at, commands + pending, 0
        if transaction:
            return Scan(size, commands, kept, at, end, "short", "an unfinished transaction")
        fault: Literal["", "short"] = "short" if end < size else ""
        return Scan(size, commands, kept, at, end, fault, "zeros" if fault else "")


def _end_of_text(log: BinaryIO, size: int) -> int:
    """Return the offset of a file's trailing zeros."""
    at = size
    while at > 0:
        start = max(0, at - _AT_ONCE)
        log.seek(start)
        block = log.read(at - start).rstrip(b"\0")
        if block:
            return start + len(block)
        at = start
    return 0


class _Reader:
    """Reads commands from `log` until `end`."""

    def __init__(self, log: BinaryIO, end: int) -> None:
        self._log, self._end = log, end
        self.at = 0

    def command(self) -> bytes:
        """Read one command and return its name in lower case; b"" for a timestamp line (#TS:)."""
        line = self._line(b"*#")
        count = _COUNT.fullmatch(line)
        if count is None:
            if _STAMP.fullmatch(line):
                return b""
            raise _Damaged("the bytes there are not a command")
        words = int(count[1])
        name = self._word(is_name=True)
        for _ in range(words - 1):
            self._word()
        fewest = FEWEST.get(name)
        if fewest is None:
            raise _Damaged(f"{name[:40]!a} is not a command")
        if words < fewest:
            raise _Damaged(f"the command {name.decode()} has only {words} words")
        return name

    def starts_with_a_word(self, at: int) -> bool:
        """Return whether a word begins at `at`, where a command should."""
        self._log.seek(at)
        return self._log.read(1) == b"$"

    def _line(self, first: bytes) -> bytes:
        line = self._log.readline(min(_LINE, self._end - self.at))
        self.at += len(line)
        if line.endswith(b"\r\n"):
            return line
        if self.at == self._end and (not line or (line[0] in first and _BEGUN.fullmatch(line))):
            raise _Short("an unfinished command")
        raise _Damaged("the bytes there are not a command")

    def _word(self, is_name: bool = False) -> bytes:
        length = _LENGTH.fullmatch(self._line(b"$"))
        if length is None:
            raise _Damaged("the bytes there are not part of a command")
        size = int(length[1])
        if self.at + size + 2 > self._end:
            raise _Short("an unfinished command")
        self.at += size + 2
        if size > _AT_ONCE:
            self._log.seek(size, 1)
            ends, word = self._log.read(2), b""
        else:
            word = self._log.read(size + 2)
            ends = word[size:]
        if ends != b"\r\n":
            raise _Damaged("a word of a command is longer than its declared length")
        return word[:-2].lower() if is_name else b""
