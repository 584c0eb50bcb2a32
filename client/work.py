"""dibs, for an agent's next action: decides whether it is work on this repository.

gate.py calls this file. Work is an edit of a file that git does not ignore, a commit or a command
that makes one, a push, a pull request. Reading is never work, and neither is a line whose effect or
target is unknown (a script, a variable, `python -c`).
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from client import dibs as client
    from client import passing, shell
    from client.dibs import Json
    from client.shell import Command, Line, Word
else:
    import dibs_client as client

    shell, passing = client.part("shell"), client.part("passing")

FORGE_TOOL = re.compile(
    r"mcp__.+__(\w*_)?((create|update|merge|accept|edit|close|reopen)_?(\w+_)?(pull|merge)_request"
    r"|(pull|merge)_request_(write|create|update|merge)|push_files?|create_or_update_files?"
    r"|(create|update|delete|write|commit|push)_(files?|commit)|create_commit|merge_branch)",
    re.IGNORECASE,
)
PATCHED = re.compile(r"^\*\*\* (?:(?:Add|Update|Delete) File|Move to): (.+)$", re.MULTILINE)
GIT = ("commit", "push", "merge", "rebase", "cherry-pick", "am", "revert", "apply", "rm", "mv")
GIT_TRIES = ("--abort", "--quit", "--dry-run", "--help", "--check", "--stat", "--numstat")
GIT_VALUES = ("-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path")
FORGES = {
    "gh": ("pr", ("create", "new", "merge", "edit", "ready", "close", "reopen", "revert")),
    "glab": ("mr", ("create", "new", "for", "merge", "accept", "update", "close", "reopen")),
    "tea": ("pulls", ("create", "merge", "close", "reopen")),
    "hub": ("pull-request", ()),
    "az": ("repos", ("pr",)),
}
FORGE_PATH = re.compile(r"/(pulls|merges|merge|contents|git/(refs|commits|trees)|merge_requests)\b")
WRITES = (">", ">>", ">|", "&>", "&>>", "<>")
# Commands that run another command: their flags with a value, and how many words precede it.
WRAPPERS = {
    "env": ("uCS", 0), "sudo": ("ugpChRrtTD", 0), "doas": ("uC", 0), "timeout": ("ks", 1),
    "nice": ("n", 0), "ionice": ("cnp", 0), "stdbuf": ("ioe", 0), "setsid": ("", 0),
    "nohup": ("", 0), "time": ("fo", 0), "command": ("", 0), "builtin": ("", 0), "exec": ("a", 0),
    "xargs": ("nILPsdaE", 0), "caffeinate": ("tw", 0), "unbuffer": ("", 0),
}  # fmt: skip
# Commands that write to the files they name: which words are files, and their flags with a value.
WRITERS = {
    "tee": (slice(None), ""), "rm": (slice(None), ""), "touch": (slice(None), "drt"),
    "truncate": (slice(None), "sr"), "unlink": (slice(None), ""), "mv": (slice(None), "tS"),
    "cp": (slice(-1, None), "tS"), "ln": (slice(-1, None), "tS"),
    "install": (slice(-1, None), "tmogS"), "rsync": (slice(-1, None), "ef"),
    "chmod": (slice(1, None), ""),
}  # fmt: skip
MOST_TARGETS = 20  # the most targets checked of one command: each check runs git
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")


def is_work(root: str | None, payload: Json, command: str, cwd: str) -> bool:
    """Return whether a tool call changes the repository."""
    repository, tool = Repository(root, cwd), str(payload.get("tool_name", ""))
    given = payload.get("tool_input")
    given = given if isinstance(given, dict) else {}
    if command:
        try:
            return Walk(repository, cwd).line(shell.read(command))
        except shell.Unreadable:
            return False
    if tool.startswith("mcp__"):
        owner, name = given.get("owner"), given.get("repo")
        is_named = isinstance(owner, str) and isinstance(name, str)
        is_ours = not is_named or repository.is_ours_at_forge(f"{owner}/{name}")
        return is_ours and bool(FORGE_TOOL.fullmatch(tool))
    paths = [given.get("file_path") or given.get("notebook_path")]
    if tool == "apply_patch":
        paths = PATCHED.findall(str(given.get("command") or given.get("input") or ""))
    return any(repository.has(os.path.join(cwd, str(path))) for path in paths if path)


class Repository:
    """The session's repository: its files, in all its worktrees."""

    def __init__(self, root: str | None, cwd: str) -> None:
        self.root = os.path.realpath(root or cwd)

    def has(self, path: str) -> bool:
        """Return whether a path is in the repository and git does not ignore it."""
        path = os.path.realpath(path)
        if not self.is_inside(path) and not self.is_worktree(client.git_root(path)):
            return False
        top = self.root if self.is_inside(path) else client.git_root(path) or self.root
        return ".git" not in path.split(os.sep) and not is_ignored(top, path)

    def has_checkout(self, folder: str) -> bool:
        """Return whether git, run in this folder, works on this repository or on one inside it."""
        top = client.git_root(os.path.realpath(folder))
        if not top:
            return self.is_inside(folder)
        return self.is_worktree(top) or (self.is_inside(top) and self.has(top))

    def is_inside(self, path: str) -> bool:
        return path == self.root or path.startswith(os.path.join(self.root, ""))

    def is_worktree(self, top: str | None) -> bool:
        """Return whether a checkout belongs to this repository."""
        if not top:
            return False
        folders = [client.git_folder(each, is_shared=True) for each in (top, self.root)]
        return os.path.realpath(folders[0]) == os.path.realpath(folders[1])

    def is_ours_at_forge(self, name: str) -> bool:
        """Return whether owner/repository of a forge may be this repository, by its remote."""
        ours = client.place_of(client.git_remote(self.root))[1][-2:]
        named = name.lower().rstrip("/").split("/")[-2:]
        return len(ours) < 2 or (named[-1].replace(".git", "") == ours[-1] and named[0] == ours[0])


def is_ignored(top: str, path: str) -> bool:
    """Return whether git ignores a file. Called only for files about to be written."""
    import subprocess

    command = ["git", "-C", top, "check-ignore", "-q", "--", path]
    try:
        nothing = subprocess.DEVNULL
        done = subprocess.run(command, stdin=nothing, stdout=nothing, stderr=nothing, timeout=1)
        return done.returncode == 0
    except (OSError, ValueError, subprocess.SubprocessError):
        return False


class Walk:
    """Follows a line as a shell would, including its changes of folder, and looks for work."""

    def __init__(self, repository: Repository, cwd: str | None, depth: int = 0) -> None:
        self.repository, self.cwd, self.depth = repository, cwd, depth

    def line(self, parts: Line) -> bool:
        cwds = []
        for part in parts:
            if part == "(":
                cwds.append(self.cwd)
            elif part == ")" and cwds:
                self.cwd = cwds.pop()
            elif not isinstance(part, str) and self.command(part):
                return True
        return False

    def below(self, text: str) -> bool:
        """Return whether a nested line is work; its changes of folder do not affect this line."""
        walk = Walk(self.repository, self.cwd, self.depth + 1)
        return walk.line(shell.read(text, self.depth + 1))

    def command(self, command: Command) -> bool:
        for line in command.lines():
            if Walk(self.repository, self.cwd, self.depth).line(line):
                return True
        if command.is_naming:
            return False
        if any(op in WRITES and self.touches(word) for _, op, word in command.redirects):
            return True
        return self.words(command.words, command.fed)

    def touches(self, word: Word) -> bool:
        """Return whether a word is known to name a file of the repository."""
        if word.unknown or not word.text:
            return False
        path = word.known_part()
        if word.pattern:  # all its matches are below this folder
            path = path.rpartition("/")[0] or ("/" if path[:1] == "/" else ".")
            path = os.path.join(path, "x") if word.pattern[:1] != "~" else ""
        return bool(path) and self.has(path)

    def has(self, path: str) -> bool:
        if self.cwd is None and not os.path.isabs(path):
            return False
        return self.repository.has(os.path.join(self.cwd or "/", path))

    def words(self, words: list[Word], fed: Sequence[str] = ()) -> bool:
        while words and ASSIGNMENT.match(words[0].text):
            words = words[1:]
        name = os.path.basename(words[0].text) if words and not words[0].unknown else ""
        rest = words[1:]
        if name in WRAPPERS:
            return self.wrapped(name, rest)
        if name in passing.SHELLS:
            return self.shell(rest, fed)
        if name in WRITERS:
            return self.writer(name, rest)
        known = KNOWN.get(name) or (Walk.forge if name in FORGES else None)
        return known is not None and known(self, name, rest)

    def wrapped(self, name: str, words: list[Word]) -> bool:
        takes, first = WRAPPERS[name]
        if name == "command" and any(word.text in ("-v", "-V") for word in words[:1]):
            return False
        while words and (words[0].text[:1] == "-" or ASSIGNMENT.match(words[0].text)):
            is_valued = words[0].text[:2] != "--" and words[0].text[-1:] in takes
            words = words[2 if is_valued and words[0].text[:1] == "-" else 1 :]
        return self.words(words[first:])

    def shell(self, words: list[Word], fed: Sequence[str]) -> bool:
        """Check sh -c 'a line', or the here-document of a shell. Script files are not read."""
        while words and words[0].text[:1] in ("-", "+"):
            if "c" in words[0].text[1:] and words[0].text[:2] != "--":
                lines = [word for word in words[1:] if word.text[:1] != "-"][:1]
                return any(self.below(word.text) for word in lines if not word.unknown)
            words = words[1:]
        return not words and any(self.below(text) for text in fed)

    def eval(self, name: str, words: list[Word]) -> bool:
        return not any(word.unknown for word in words) and self.below(
            " ".join(word.text for word in words)
        )

    def moved(self, name: str, words: list[Word]) -> bool:
        """Follow cd; the folder is None if it is unknown."""
        words = [word for word in words if word.text not in ("-P", "-L", "--")]
        self.cwd = self.folder(words[0]) if words else os.path.expanduser("~")
        return False

    def folder(self, word: Word) -> str | None:
        is_known = word.is_known() and word.text != "-"
        if not is_known or (self.cwd is None and not os.path.isabs(word.text)):
            return None
        return os.path.realpath(os.path.join(self.cwd or "/", word.text))

    def git(self, name: str, words: list[Word]) -> bool:
        here = self.cwd
        while words and words[0].text[:1] == "-":
            flag, _, value = words[0].text.partition("=")
            size = 2 if flag in GIT_VALUES and not value else 1
            if flag in ("-C", "--work-tree") and len(words) > 1:
                where = shell.Word()
                where.text = value
                here = Walk(self.repository, here).folder(where if value else words[1])
            words = words[size:]
        texts = [word.text for word in words]
        is_one = bool(words) and words[0].is_known() and words[0].text in GIT
        is_ours = is_one and here is not None and self.repository.has_checkout(here)
        return is_ours and not any(text in GIT_TRIES for text in texts)

    def forge(self, name: str, words: list[Word]) -> bool:
        texts, (kind, acts) = [word.text for word in words], FORGES[name]
        if name == "hub":
            return texts[:1] == [kind] or self.git(name, words)
        if texts[:1] == ["api"]:
            return self.forge_api(texts[1:])
        if texts[:1] == [kind] and not self.is_elsewhere(texts):
            return any(text in acts for text in texts[1:2]) and (
                name != "az" or texts[2:3] in (["create"], ["update"])
            )
        return False

    def is_elsewhere(self, texts: list[str]) -> bool:
        """Return whether a flag names another repository."""
        named = after(texts, ("-R", "--repo", "--repository"))
        named += [text.partition("=")[2] for text in texts if text.startswith("--repo")]
        return any(name and not self.repository.is_ours_at_forge(name) for name in named)

    def forge_api(self, texts: list[str]) -> bool:
        """Check gh api -X POST repos/o/r/pulls."""
        verbs = after(texts, ("-X", "--method"))
        fields = [t for t in texts if t in ("-f", "-F", "--field", "--raw-field", "--input")]
        writes = verbs[0].upper() != "GET" if verbs else bool(fields)
        return writes and any(FORGE_PATH.search(text) for text in texts)

    def writer(self, name: str, words: list[Word]) -> bool:
        which, takes = WRITERS[name]
        letters, plain, values = options(words, takes)
        targets = values.get("t") if "t" in takes and "t" in letters else plain[which]
        if name == "rsync" and "n" in letters:
            return False
        return any(self.touches(word) for word in (targets or [])[:MOST_TARGETS])

    def sed(self, name: str, words: list[Word]) -> bool:
        letters, plain, _ = options(words, "efl", "i")
        in_place = "i" in letters or any(word.text[:10] == "--in-place" for word in words)
        plain = [word for word in plain if word.text]
        files = plain if letters & {"e", "f"} else plain[1:]
        return in_place and any(self.touches(word) for word in files)

    def perl(self, name: str, words: list[Word]) -> bool:
        letters, plain, _ = options(words, "eE", "iIMm0lFCD")
        files = plain if letters & {"e", "E"} else plain[1:]
        return "i" in letters and any(self.touches(word) for word in files)

    def awk(self, name: str, words: list[Word]) -> bool:
        in_place = any(word.text in ("inplace", "-iinplace") for word in words)
        _, plain, _ = options(words, "ifv")
        return in_place and any(self.touches(word) for word in plain[1:])

    def dd(self, name: str, words: list[Word]) -> bool:
        for word in words:
            if word.text.startswith("of=") and not word.unknown and self.has(word.text[3:]):
                return True
        return False

    def patch(self, name: str, words: list[Word]) -> bool:
        _, plain, values = options(words, "diopBDFgVYz")
        if any(word.text == "--dry-run" for word in words):
            return False
        folders = values.get("d") or []
        here = self.folder(folders[0]) if folders else self.cwd
        named = plain[:1]
        if named:
            return Walk(self.repository, here).touches(named[0])
        return here is not None and self.repository.has(here)

    def find(self, name: str, words: list[Word]) -> bool:
        """Check find … -exec command {} +, where {} is below the first folder."""
        texts = [word.text for word in words]
        starts = [word for word in words[:1] if word.text[:1] not in ("-", "(", "!")]
        for number, text in enumerate(texts):
            if text in ("-exec", "-execdir", "-ok", "-okdir"):
                ends = [n for n in range(number, len(texts)) if texts[n] in (";", "+")]
                run = words[number + 1 : ends[0] if ends else None]
                if self.words([self.found(word, starts) for word in run]):
                    return True
        return "-delete" in texts and bool(starts) and self.touches(starts[0])

    def found(self, word: Word, starts: list[Word]) -> Word:
        if word.text != "{}":
            return word
        stands = shell.Word()
        stands.text = os.path.join(starts[0].text if starts else ".", "x")
        stands.unknown = list(starts[0].unknown) if starts else []
        return stands


KNOWN: dict[str, Callable[[Walk, str, list[Word]], bool]] = {
    "git": Walk.git, "cd": Walk.moved, "pushd": Walk.moved, "eval": Walk.eval, "sed": Walk.sed,
    "gsed": Walk.sed, "perl": Walk.perl, "ruby": Walk.perl, "awk": Walk.awk, "gawk": Walk.awk,
    "dd": Walk.dd, "patch": Walk.patch, "find": Walk.find,
}  # fmt: skip


def after(texts: list[str], flags: Sequence[str]) -> list[str]:
    """Return the words that follow any of these flags."""
    return [text for number, text in enumerate(texts[1:]) if texts[number] in flags]


def options(
    words: list[Word], takes: str = "", attached: str = ""
) -> tuple[set[str], list[Word], dict[str, list[Word]]]:
    """Return (the letters of flags, the other words, {flag: its values}). A flag in `takes` is
    followed by a value; one in `attached` takes the rest of its own word as value."""
    letters: set[str] = set()
    plain: list[Word] = []
    values: dict[str, list[Word]] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        text = word.text
        if text == "--":
            return letters, plain + words, values
        if text[:1] != "-" or len(text) < 2 or text[:2] == "--":
            plain += [] if text[:2] == "--" else [word]
            continue
        for number, letter in enumerate(text[1:], 2):
            letters.add(letter)
            if letter in attached:
                break
            if letter in takes:
                if not text[number:] and words:
                    values.setdefault(letter, []).append(words.pop(0))
                break
    return letters, plain, values
