"""dibs, for an agent's shell lines: recognizes lines that are dibs commands and nothing else.

gate.py lets these pass without a question. A line is parsed (shell.py), each word of it is checked,
and the line is rebuilt from the parsed words, quoted where needed, with this client by its full
path. So exactly the checked words run, however a shell would have read the original line.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from client import dibs as client
    from client.shell import Command, Line, Word
else:
    import dibs_client as client

VERBS = (
    *("next", "claim", "beat", "park", "review", "release", "done", "add", "list", "show"),
    *("verify", "doctor"),
)
HELP = ("help", "-h", "--help")
SHELLS = ("sh", "bash", "dash", "zsh", "ksh")
PYTHONS = ("python3", "python")
STRUCTURE = (
    *("\n", ";", "&&", "||", "|", "(", ")", "{", "}", "!"),
    *("if", "then", "elif", "else", "fi"),
)
AS_IT_IS = re.compile(r"[\w./:=@%+,-]+", re.ASCII)
STRANGE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
TIME = re.compile(r"\d{1,6}(\.\d+)?[smh]?", re.ASCII)
EXITS = re.compile(r"(\$\?|\d{1,3}) (=|==|!=|-eq|-ne|-gt|-lt|-ge|-le) (\$\?|\d{1,3})", re.ASCII)
# Filters for the output of dibs: their flags, the flags with a value, and how many other words they
# take before any file.
NUMBER = re.compile(r"[+-]?\d+", re.ASCII)
ANY = re.compile(r".*", re.DOTALL)
LINES = (re.compile(r"-\d+|-[nc][+-]?\d+", re.ASCII), {"-n": NUMBER, "-c": NUMBER}, 0)
GREP = re.compile(r"-[ivEFconqwx]+|-[ABCm]\d+|--color=never", re.ASCII)
FILTERS = {
    "head": LINES,
    "tail": LINES,
    "wc": (re.compile(r"-[lwcm]+"), {}, 0),
    "cat": (re.compile(r"-[nA]"), {}, 0),
    "cut": (re.compile(r"-d.|-[fc][\d,-]+", re.ASCII), dict.fromkeys(("-d", "-f", "-c"), ANY), 0),
    "grep": (GREP, dict.fromkeys(("-m", "-A", "-B", "-C"), NUMBER), 1),
    "jq": (re.compile(r"-[rcesSM]+|--raw-output|--exit-status"), {}, 1),
}
# jq can read environment variables and files.
JQ_MORE = re.compile(r"env|import|include|input|\$", re.IGNORECASE)
MOST_LINES = 3  # the deepest nesting of sh -c 'sh -c …'


class Other(Exception):
    """The line contains something that may not pass."""


class Place:
    """Where a line runs: its folder, and the clients that are ours there."""

    def __init__(
        self, root: str | None, cwd: str, before: Sequence[str] = (), after: Sequence[str] = ()
    ) -> None:
        self.roots = [os.path.realpath(path) for path in (root, client.git_root(cwd)) if path]
        self.cwd = os.path.realpath(cwd)
        self.before, self.after = list(before), list(after)  # added to each dibs command
        here = client.here()
        self.ours = os.path.join(here, "dibs")
        self.command = ["sh", self.ours]
        if not os.path.isfile(self.ours):
            self.command = ["python3", self.ours + ".py"]

    def is_ours(self, path: str, cwd: str) -> bool:
        """Return whether a path is this client or a byte-identical copy, as in a worktree."""
        found = os.path.realpath(os.path.join(cwd, path))
        if os.path.basename(found) not in ("dibs", "dibs.py"):
            return False
        folder, own = os.path.dirname(found), os.path.dirname(self.ours)
        names = [name for name in ("dibs", *files()) if os.path.isfile(os.path.join(own, name))]
        return folder == own or (
            os.path.isfile(found) and all(same(folder, own, name) for name in names)
        )

    def has(self, path: str) -> bool:
        """Return whether a folder is in the repository, or in one with the same client."""
        if any(path == root or path.startswith(os.path.join(root, "")) for root in self.roots):
            return True
        root = client.git_root(path)
        return root is not None and self.is_ours(f"{client.SKILL_DIR}/dibs", root)


def files() -> list[str]:
    """Return the names of the client's code files."""
    return ["dibs.py", *(name + ".py" for name in client.PARTS)]


def same(one: str, other: str, name: str) -> bool:
    try:
        with open(os.path.join(one, name), "rb") as file:
            text = file.read()
        with open(os.path.join(other, name), "rb") as file:
            return file.read() == text
    except OSError:
        return False


def rewritten(line: str, place: Place, read: Callable[[str], Line]) -> str | None:
    """Return the line to run without a question, or None. `read` is shell.read."""
    writer = Writer(place, read)
    try:
        text = writer.line(read(line), place.cwd)
    except (Other, ValueError):
        return None
    if not writer.has_dibs:
        return None
    return line if writer.is_as_documented and not (place.before or place.after) else text


class Writer:
    """Rebuilds a line; raises Other if it does not pass."""

    def __init__(self, place: Place, read: Callable[[str], Line]) -> None:
        self.place, self.read, self.has_dibs, self.depth = place, read, False, 0
        self.is_as_documented = False  # one command, in SKILL.md's form

    def line(self, parts: Line, cwd: str) -> str:
        pieces, cwds = [], [cwd]
        for part in parts:
            if isinstance(part, str):
                if part not in STRUCTURE:
                    raise Other
                pieces.append(part)
                cwds = [*cwds, cwds[-1]] if part == "(" else cwds
                cwds = cwds[:-1] if part == ")" and cwds[1:] else cwds
            else:
                text, cwds[-1] = self.command(part, cwds[-1])
                pieces.append(text)
                self.is_as_documented = self.is_as_documented and len(parts) == 1
        if len(cwds) > 1:
            raise Other
        return " ".join(pieces)

    def command(self, command: Command, cwd: str) -> tuple[str, str]:
        if command.is_naming or command.lines() or command.fed:
            raise Other
        goes = [redirect(*each) for each in command.redirects]
        if not command.words:
            return " ".join(goes), cwd
        text, cwd = self.words(command.words, cwd)
        self.is_as_documented = self.is_as_documented and not goes
        return " ".join([text, *goes]), cwd

    def words(self, words: list[Word], cwd: str) -> tuple[str, str]:
        name = words[0].text if words[0].is_plain else ""
        rest = [word.text for word in words[1:]]
        if name == "cd" and len(rest) == 1 and words[1].is_known() and rest[0][:1] not in ("-", ""):
            return self.moved(os.path.realpath(os.path.join(cwd, rest[0])))
        if name == "timeout" and len(rest) > 1 and TIME.fullmatch(rest[0]):
            text = self.dibs(words[2:], cwd)
            self.is_as_documented = False
            return f"timeout {rest[0]} {text}", cwd
        if name in SHELLS and is_script(words):
            return self.script(words[-1], cwd), cwd
        return glue(name, words[1:]) or self.dibs(words, cwd), cwd

    def moved(self, folder: str) -> tuple[str, str]:
        if not os.path.isdir(folder) or not self.place.has(folder):
            raise Other
        return "cd " + quoted(folder), folder

    def script(self, word: Word, cwd: str) -> str:
        """Rebuild sh -c '…' as a subshell."""
        self.depth += 1
        if self.depth > MOST_LINES or not word.is_known():
            raise Other
        text = self.line(self.read(word.text), cwd)
        self.is_as_documented = False
        return f"( {text}\n)"

    def dibs(self, words: list[Word], cwd: str) -> str:
        """Rebuild one dibs command with the path of this client."""
        runner = words[0].text if words[0].is_plain else ""
        runs = SHELLS if words[1:] and not words[1].text.endswith(".py") else PYTHONS
        script, rest = words[0], words[1:]
        if runner in runs and rest:
            script, rest = rest[0], rest[1:]
        if not self.names_us(script, cwd) or not all(map(is_clear, rest)):
            raise Other
        texts = [word.text for word in rest]
        if texts and texts[0] not in (*VERBS, *HELP):
            raise Other
        if any(STRANGE.search(text) for text in texts):
            raise Other
        self.has_dibs = True
        self.is_as_documented = (
            (runner, script.text) == ("sh", f"{client.SKILL_DIR}/dibs")
            and all(word.is_known() for word in rest)
            and os.path.isfile(os.path.join(cwd, script.text))
        )
        call = [*self.place.command, *texts[:1], *(self.place.after if texts else []), *texts[1:]]
        return " ".join([*self.place.before, *map(quoted, call)])

    def names_us(self, word: Word, cwd: str) -> bool:
        if word.unknown in (["CLAUDE_PROJECT_DIR"], ["$CLAUDE_PROJECT_DIR"]):
            tail = word.text.replace("$CLAUDE_PROJECT_DIR", "", 1)
            return word.literal == 0 and tail == f"/{client.SKILL_DIR}/dibs"
        if not word.is_known():
            return False
        is_there = os.path.isfile(os.path.join(cwd, word.text))
        if word.text == "dibs" or (word.text == f"{client.SKILL_DIR}/dibs" and not is_there):
            return True  # SKILL.md's form, from any folder
        return "/" in word.text and self.place.is_ours(word.text, cwd)


def is_clear(word: Word) -> bool:
    """Return whether a word is known, except for ?, which is hardly ever meant as a pattern."""
    return not word.unknown and set(word.pattern) <= {"?"}


def is_script(words: list[Word]) -> bool:
    """Return whether the words are like sh -c '…' or bash -lc '…'."""
    flags = [word.text for word in words[1:-1]]
    return flags in (["-c"], ["-lc"], ["-l", "-c"], ["-ec"], ["-cl"])


def redirect(number: str, operator: str, word: Word) -> str:
    """Rebuild a redirection to stdout, stderr or /dev/null; raise Other for any other."""
    if not word.is_known():
        raise Other
    if operator == ">&" and word.text in ("1", "2") and number in ("", "1", "2"):
        return f"{number}>&{word.text}"
    if operator in (">", ">>") and word.text == "/dev/null" and number in ("", "1", "2"):
        return f"{number}{operator}/dev/null"
    if operator in ("&>", "&>>") and word.text == "/dev/null":
        return ">/dev/null 2>&1"
    if (operator, number, word.text) == ("<", "", "/dev/null"):
        return "</dev/null"
    raise Other


def glue(name: str, words: list[Word]) -> str | None:
    """Rebuild a harmless command between dibs commands, as echo or a filter; return None for
    others."""
    texts = [word.text for word in words]
    if any(STRANGE.search(text) for text in texts):
        raise Other
    if name == "echo":
        return " ".join(["echo", *map(shown, words)])
    if name in ("[", "test") and EXITS.fullmatch(" ".join(texts[: 3 if name == "[" else None])):
        is_whole = texts[3:] == (["]"] if name == "[" else [])
        return " ".join(["[", *texts[:3], "]"]) if is_whole else None
    if name in ("true", "false", ":", "pwd") and not texts:
        return name
    if name == "exit" and texts in ([], ["$?"], ["0"], ["1"]):
        return " ".join([name, *texts])
    if name == "sleep" and len(texts) == 1 and TIME.fullmatch(texts[0]):
        return f"sleep {texts[0]}"
    return filtered(name, words, texts) if name in FILTERS else None


def shown(word: Word) -> str:
    """Quote an argument of echo, in which $? is kept; raise Other for other expansions."""
    if set(word.unknown) - {"?"}:
        raise Other
    if not word.unknown:
        return quoted(word.text)
    return '"' + re.sub(r'[\\"`]|\$(?!\?)', r"\\\g<0>", word.text) + '"'


def filtered(name: str, words: list[Word], texts: list[str]) -> str:
    """Rebuild a filter that reads only stdin; raise Other if it may read files."""
    flags, valued, most = FILTERS[name]
    if any(word.unknown for word in words):
        raise Other
    others, waiting = [], list(texts)
    while waiting:
        text = waiting.pop(0)
        if name == "grep" and text == "-e" and waiting:
            others.append("pattern")
            waiting.pop(0)
        elif waiting and text in valued and valued[text].fullmatch(waiting[0]):
            waiting.pop(0)
        elif not flags.fullmatch(text):
            others.append(text)
    reads_more = name == "jq" and any(map(JQ_MORE.search, others))
    if len(others) > most or any(other[:1] == "-" for other in others) or reads_more:
        raise Other
    return " ".join([name, *map(quoted, texts)])


def quoted(text: str) -> str:
    """Quote a word so that a shell expands nothing in it."""
    if AS_IT_IS.fullmatch(text) and text[:1] not in ("=", "~"):
        return text
    return "'" + text.replace("'", "'\\''") + "'"
