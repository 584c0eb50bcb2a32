"""dibs, for setting up a repository: `dibs init` and `dibs doctor`, which no claim needs.

dibs.py imports this file. init copies it next to dibs.py, so that dibs can be removed from a
repository even when the service is gone.

Additions to your files are inserted as text, so every other byte of them, comments and order
included, stays. undo.json records each inserted piece; removing dibs cuts exactly these pieces.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Optional, Union

    from client import dibs as client
    from client.dibs import Args, Json, Session, Setup

    Tell = Callable[..., None]
    Texts = dict[str, Optional[str]]  # {path: text, or None for a missing file}
    Folder = Union[int, str]  # a descriptor, or a path where folders cannot be opened
else:
    try:
        import dibs_client as client
    except ImportError:  # an older dibs.py fetched this file, or somebody runs it directly
        text = "dibs: this dibs.py is older than its service: fetch it again, from /client/dibs.py"
        print(text, file=sys.stderr)
        sys.exit(2)

SETTINGS = ".claude/settings.json"
# Each agent's file with hooks, and the files by which a repository shows that it is in use.
AGENTS = {
    "claude": (SETTINGS, (".claude", "CLAUDE.md")),
    "codex": (".codex/hooks.json", (".codex",)),
    "cursor": (".cursor/hooks.json", (".cursor", ".cursorrules")),
    "gemini": (".gemini/settings.json", (".gemini", "GEMINI.md")),
    "copilot": (
        ".github/hooks/dibs.json",
        (".github/copilot-instructions.md", ".github/hooks", ".github/copilot"),
    ),
}
# Steps that a person has to take once, where a committed file is not enough.
ONCE = {
    "codex": "each person trusts the hooks once in Codex (/hooks)",
    "gemini": "Gemini CLI asks each person once to trust the folder",
    "copilot": "Copilot's cloud agent takes hooks from the default branch, and its firewall has to "
    "let the service's host through",
}
SHARED = (*(path for path, _ in AGENTS.values()), "AGENTS.md", "CLAUDE.md")
SKILL_TOO = ".agents/skills/dibs/SKILL.md"  # the skill's place for agents other than Claude Code
CODE = ("dibs.py", *(name + ".py" for name in client.PARTS))
OURS = tuple(
    client.SKILL_DIR + "/" + name for name in ("SKILL.md", "dibs", *CODE, "dibs.conf", "undo.json")
)
# A comment, a string, a bracket, or a bare word.
JSON_WORD = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s{}\[\],:"]+', re.DOTALL)


def do_init(args: Args, session: Session) -> int:
    """Run init: show and write the changes that add all of dibs, or with --remove remove it."""
    setup = session.setup
    if not setup.root:
        raise usage("init works inside a git repository: run `git init` first")
    os.chdir(setup.root)
    try:
        changed = change(args, setup)
    except OSError as error:
        raise usage(f"{error.filename or setup.root}: {error.strerror}") from None
    if args.json:
        told = {"project": setup.project, "url": setup.url, "changed": changed}
        print(json.dumps(dict(told, agents=args.agents)))
    elif args.remove:
        print(f"dibs is removed from {setup.project}")
    else:
        files = "file" if len(changed) == 1 else f"{len(changed)} files"
        todo = f"commit the {files} above" if changed else "nothing to change"
        todo += left_out(args.agents)
        once = ["", *(ONCE[name] for name in args.agents if name in ONCE)]
        print(f"dibs is set up for {setup.project} at {setup.url}: {todo}" + "; ".join(once))
    return client.YES


def left_out(named: list[str]) -> str:
    """Return a warning if git ignores files of ours, so that other checkouts would lack them, or
    ''."""
    import subprocess

    paths = [
        path for path in (*OURS, *(AGENTS[name][0] for name in named)) if read(path) is not None
    ]
    command = ["git", "check-ignore", "--", *paths]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    ignored = done.stdout.decode("utf-8", "replace").splitlines()
    if not ignored:
        return ""
    return (
        f"; git ignores {len(ignored)} of dibs' files, as {ignored[0]}: add them with `git add -f`"
    )


def change(args: Args, setup: Setup) -> list[str]:
    """Work out the changes, show and write them; return the changed paths. The working directory
    is the root."""
    root = setup.root or "."
    before = {path: read(path) for path in (*SHARED, *OURS, SKILL_TOO)}
    after, spots = taken_out(before)
    args.agents = agents(args, json.loads(before[OURS[-1]] or "{}"))
    if not args.remove:
        setup.url, setup.key = source_of(args, setup), ""  # the files it fetches are public
        setup.project = args.project or setup.project or folder_project(root)
        setup.check()
        put_in(setup, after, spots, args.agents)
    changed = [path for path in after if after[path] != before[path]]
    for path in changed:
        show(path, before[path] or "", after[path] or "")
    see_to_push_hook(args, root)
    for path in changed:
        write(path, after[path])
    return changed


PUSH_MARK = "# dibs: pre-push."
PUSH_LINE = f"sh {client.SKILL_DIR}/dibs verify --pre-push"
PUSH_HOOK = f"""#!/bin/sh
{PUSH_MARK} Stops a push after a claim was lost, or to a branch of another session's claim.
# `init --remove` deletes this hook.
[ -f {client.SKILL_DIR}/dibs ] || exit 0
exec {PUSH_LINE}
"""


def see_to_push_hook(args: Args, root: str) -> None:
    """Install git's pre-push hook with --pre-push; delete ours with --remove. The hook belongs to
    this checkout only: git does not commit hooks."""
    folder = os.path.join(client.git_folder(root, is_shared=True), "hooks")
    path = os.path.join(folder, "pre-push")
    found = client.read_text(path)
    if args.remove and PUSH_MARK in found and not os.path.islink(path):
        os.unlink(path)
    if args.remove or not args.pre_push:
        return
    home = client.read_text(os.path.expanduser("~/.gitconfig"))
    configs = (client.git_file(root, "config"), home)
    is_elsewhere = any(re.search(r"^\s*hooksPath\s*=", text, re.I | re.M) for text in configs)
    if is_elsewhere or (os.path.lexists(path) and PUSH_MARK not in found):
        why = "core.hooksPath is set" if is_elsewhere else f"{path} is there already"
        raise usage(f"{why}: add this line to that pre-push hook yourself: {PUSH_LINE}")
    os.makedirs(folder, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINK, 0o755), "w") as file:
        file.write(PUSH_HOOK)
    print(f"+++ {path}", file=sys.stderr)


def folder_project(root: str) -> str:
    """Return a project for a checkout without a remote: the names of its folder and the one
    above."""
    steps = [step for step in root.lower().replace("\\", "/").split("/") if step][-2:]
    return client.percent_encoded(".".join(steps)).replace("%", "-").lstrip("._-")[:100]


def agents(args: Args, undo: Json) -> list[str]:
    """Return the agents to install hooks for: those that have ours, and those of --agent."""
    had = [name for name, (path, _) in AGENTS.items() if path in undo]
    named = (args.agent or "").replace(" ", "").split(",") if args.agent else []
    if named == ["auto"]:
        named = [name for name, (_, signs) in AGENTS.items() if any(map(os.path.exists, signs))]
    unknown = [name for name in named if name not in AGENTS]
    if unknown:
        names = ", ".join(AGENTS)
        raise usage(f"no agent is called {client.word(unknown[0])}: --agent takes {names}, or auto")
    return [name for name in AGENTS if name in {*had, *named}] or ["claude"]


def source_of(args: Args, setup: Setup) -> str:
    """Return the service to fetch the files from. Its code will run in this repository, so only a
    person or the dibs.py that it served names it, never the checkout's dibs.conf."""
    url = (args.url or setup.named or setup.served).rstrip("/")
    if not url:
        known = f" (dibs.conf has {client.word(setup.conf_url)})" if setup.conf_url else ""
        raise usage(f"name the service: dibs init --url https://…{known}")
    if setup.conf_url not in ("", url):
        client.talk(f"dibs.conf had {client.word(setup.conf_url)}; from now on it is {url}")
    return url


def usage(text: str) -> client.Failure:
    return client.Failure(client.USAGE, text)


def taken_out(before: Texts) -> tuple[Texts, dict[str, int]]:
    """Return the files without dibs, and {path: the offset where its piece was}."""
    after = dict(before)
    spots: dict[str, int] = {}
    try:
        undo = json.loads(before[OURS[-1]] or "{}")
        for path, ours in undo.items():
            for place, piece in reversed(ours["pieces"] if after[path] else []):
                text = after[path] or ""
                start, _ = (
                    (0, 0) if place is None else containers(text).get(tuple(place), (len(text), 0))
                )
                spot, end = place_in(text, piece, start)
                if spot < 0:
                    raise usage(
                        f"dibs' lines in {path} were changed: put them back as undo.json has them, "
                        f"or remove them by hand, and the entry of {path} from {OURS[-1]}"
                    )
                after[path], spots[path] = text[:spot] + text[end:], spot
            if ours["is_new"] and solid(after[path] or "") in ("", "{}"):
                after[path] = None
    except (*client.MALFORMED, RecursionError):
        raise usage(OURS[-1] + " is damaged: restore it from git") from None
    after.update((path, None) for path in (*OURS, SKILL_TOO))
    return after, spots


def place_in(text: str, piece: str, start: int) -> tuple[int, int]:
    """Return (start, end) of a piece of ours in a text, unchanged or with whitespace changed by a
    formatter; (-1, -1) if it is missing."""
    spot = text.find(piece, start)
    if spot >= 0:
        return spot, spot + len(piece)
    places = [place for place in range(start, len(text)) if not text[place].isspace()]
    first = solid(text[start:]).find(solid(piece))
    if first < 0:
        return -1, -1
    spot, end = places[first], places[first + len(solid(piece)) - 1] + 1
    if piece[:1].isspace():
        spot = len(text[:spot].rstrip())
    return spot, end


def solid(text: str) -> str:
    """Return a text without whitespace."""
    return "".join(text.split())


def put_in(setup: Setup, after: Texts, spots: dict[str, int], named: list[str]) -> None:
    """Put dibs' files and pieces into `after`, including the record of the pieces (undo.json)."""
    names = ("skill/SKILL.md", "skill/dibs", *("client/" + name for name in CODE))
    ours, undo = [fetch(setup, name) for name in names], {}
    for name in named:
        path = AGENTS[name][0]
        source = "skill/settings.json" if name == "claude" else f"skill/{name}.json"
        undo[path] = put_hooks(after, path, json.loads(fetch(setup, source)))
    for path in memory_files(after, named):
        block = fetch(setup, "skill/" + ("CLAUDE.md" if named == ["claude"] else path))
        text = after[path] or ""
        head = text[: spots.get(path, len(text))]
        gap = "\n" if head.endswith("\n") else "\n\n" if head else ""
        piece = (gap + block).replace("\n", "\r\n" if "\r\n" in text else "\n")
        undo[path] = {"is_new": after[path] is None, "pieces": [[None, piece]]}
        after[path] = head + piece + text[len(head) :]
    if named != ["claude"]:
        after[SKILL_TOO] = ours[0]
    conf = "# Settings of dibs for this repository; environment variables win over them.\n"
    conf += f"url = {setup.url}\nproject = {setup.project}\ngate = {setup.gate}\n"
    after.update(zip(OURS, [*ours, conf, json.dumps(undo, indent=1) + "\n"]))


def put_hooks(after: Texts, path: str, wanted: Json) -> Json:
    """Put an agent's hooks into its file; return the entry of undo.json for them."""
    text, was = after[path] or "{}\n", parse(after[path] or "{}")
    pieces: list[Any] = []
    undo = {"is_new": after[path] is None, "pieces": pieces}
    if isinstance(was, dict) and was.get("version") == wanted.get("version", 0):
        del wanted["version"]  # it is there
    grafted = graft(text, wanted, pieces) if holds(was, {}) else ""
    if not holds(parse(grafted), wanted):
        raise usage(f"{path} is not JSON as its agent reads it: fix it first")
    after[path] = grafted
    return undo


def fetch(setup: Setup, name: str) -> str:
    """Fetch a file, in which the service has filled in its own URL."""
    return client.ask(setup, "GET", "/" + name, {"Accept": "*/*"})[1].decode("utf-8")


def memory_files(after: Texts, named: list[str]) -> list[str]:
    """Return the files that get the block about dibs: CLAUDE.md, and AGENTS.md if it exists or an
    agent other than Claude Code is in use; AGENTS.md alone if Claude Code reads it anyway or is not
    in use."""
    if after["AGENTS.md"] is None and named == ["claude"]:
        return ["CLAUDE.md"]
    claude = after["CLAUDE.md"]
    has_both = claude is not None and after["AGENTS.md"] is not None
    is_link = has_both and os.path.samefile("AGENTS.md", "CLAUDE.md")
    if is_link or "@AGENTS.md" in (claude or "") or "claude" not in named:
        return ["AGENTS.md"]
    return ["AGENTS.md", "CLAUDE.md"]


def parse(text: str) -> Any:
    """Parse JSON text that may have comments; return None if it is not JSON."""
    plain = JSON_WORD.sub(lambda word: "" if word[0][:2] in ("//", "/*") else word[0], text)
    try:
        return json.loads(plain.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None


def holds(value: Any, wanted: Any) -> bool:
    """Return whether a value contains everything in `wanted`."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(holds(value.get(k), wanted[k]) for k in wanted)
    if not isinstance(wanted, list):
        return bool(value == wanted)
    return isinstance(value, list) and all(item in value for item in wanted)


def containers(text: str) -> dict[tuple[str, ...], tuple[int, bool]]:
    """Return {path: (offset behind its bracket, is it empty)} of each object and array of a JSON
    text."""
    found: dict[tuple[str, ...], tuple[int, bool]] = {}
    tokens = [word for word in JSON_WORD.finditer(text) if word[0][:2] not in ("//", "/*")]
    path: list[str] = []
    last = ""
    for token, following in zip(tokens, tokens[1:] + tokens[-1:]):
        if token[0] in ("{", "["):
            path.append(last)
            found.setdefault(tuple(path[1:]), (token.end(), following[0] in ("}", "]")))
        elif token[0] in ("}", "]"):
            path = path[:-1]
        last = token[0].strip('"')
    return found


def graft(text: str, wanted: Any, pieces: list[Any], path: tuple[str, ...] = ()) -> str:
    """Insert `wanted` into a JSON text, at the start of each container, and record the pieces."""
    is_object = isinstance(wanted, dict)
    for key in reversed(list(wanted)):
        if is_object and (*path, key) in containers(text):
            text = graft(text, wanted[key], pieces, (*path, key))
            continue
        offset, is_empty = containers(text).get(path, (len(text), True))
        line_end = "\r\n" if "\r\n" in text else "\n"
        start, end = line_end + "  " * (len(path) + 1), line_end + "  " * len(path)
        piece = json.dumps(wanted[key] if is_object else key, indent=2)
        piece = (json.dumps(key) + ": " + piece) if is_object else piece
        piece = start + piece.replace("\n", start) + (end if is_empty else ",")
        pieces.append([path, piece])
        text = text[:offset] + piece + text[offset:]
    return text


def steps_to(path: str) -> list[str]:
    """Return the segments of a path below the repository (the working directory), with links
    resolved. A checkout may have links to anywhere: raise Failure for files outside the
    repository, so they are neither read nor written."""
    root, real = os.path.realpath("."), os.path.realpath(path)
    steps = os.path.relpath(real, root).split(os.sep) if real[:1] == root[:1] else [".."]
    if ".." in steps or ".git" in map(str.lower, steps):
        raise usage(
            f"{path} leads to {real}, which is no file of this repository's: replace the link by "
            "a plain file or folder"
        )
    return steps


def open_folder(steps: Sequence[str], make: bool = False) -> Folder:
    """Open a folder below the working directory without following links; return its path where
    folders cannot be opened (Windows)."""
    if os.open not in os.supports_dir_fd:
        if make:
            os.makedirs(os.path.join(".", *steps), exist_ok=True)
        return os.path.join(".", *steps)
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    for step in steps:
        above = folder
        try:
            if make and step not in os.listdir(above):
                os.mkdir(step, dir_fd=above)
            folder = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
    return folder


def within(folder: Folder, name: str) -> tuple[str, int | None]:
    """Return (name, dir_fd) of a file in an open folder."""
    if isinstance(folder, int):
        return name, folder
    return os.path.join(folder, name), None


def close(folder: Folder) -> None:
    if isinstance(folder, int):
        os.close(folder)


NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read(path: str) -> str | None:
    """Return the text of a file, byte for byte, or None if it is missing."""
    *steps, name = steps_to(path)
    try:
        folder = open_folder(steps)
    except FileNotFoundError:
        return None
    try:
        name, where = within(folder, name)
        if not stat.S_ISREG(os.stat(name, follow_symlinks=False, dir_fd=where).st_mode):
            raise usage(f"{path} is no plain file")
        with open(os.open(name, os.O_RDONLY | NO_LINK, dir_fd=where), "rb") as file:
            return file.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    finally:
        close(folder)


def show(path: str, old: str, new: str) -> None:
    """Print a change on stderr: as a diff for a file of the repository's people, as one line for a
    file of ours."""
    old_lines, new_lines = old.splitlines(), new.splitlines()
    real = "/".join(steps_to(path))
    name = path if real == path else f"{path} -> {real}"
    lines = ["%s %s, %d lines" % ("+++" if new else "---", name, len(new_lines or old_lines))]
    if path in SHARED:
        lines = list(difflib.unified_diff(old_lines, new_lines, name, name, lineterm="", n=1))
    for line in lines:
        print("".join(c if c.isprintable() else " " for c in line), file=sys.stderr)


def write(path: str, text: str | None) -> None:
    """Replace a file atomically, keeping its mode; if text is None delete it and the folders that
    become empty."""
    *steps, name = steps_to(path)
    folder = open_folder(steps, make=True)
    try:
        if text is None:
            plain, where = within(folder, name)
            os.unlink(plain, dir_fd=where)
        else:
            replace(folder, name, text.encode("utf-8", "surrogateescape"))
    finally:
        close(folder)
    while text is None and steps and not os.listdir(os.path.join(*steps)):
        os.rmdir(os.path.join(*steps))
        steps = steps[:-1]


def replace(folder: Folder, name: str, data: bytes) -> None:
    """Write a file over an existing one, keeping its mode, or create it."""
    plain, where = within(folder, name)
    new, _ = within(folder, f".{name}.{os.getpid()}.new")
    is_script, flags = name in ("dibs", "dibs.py"), os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK
    try:
        mode = 0o777 if is_script else 0o666
        with open(os.open(new, flags, mode, dir_fd=where), "wb") as file:
            file.write(data)
            with suppress(FileNotFoundError):
                was = os.stat(plain, follow_symlinks=False, dir_fd=where).st_mode
                os.chmod(
                    new if where is None else file.fileno(), stat.S_IMODE(was) | 0o111 * is_script
                )
        os.replace(new, plain, src_dir_fd=where, dst_dir_fd=where)
    except OSError:
        with suppress(OSError):
            os.unlink(new, dir_fd=where)
        raise


def do_doctor(args: Args, session: Session) -> int:
    """Run doctor: print the result of each check, with a remedy for each failure."""
    told: list[Json] = []

    def line(text: str, code: int = client.YES) -> None:
        told.append({"is_ok": not code, "code": code, "text": client.one_line(text)})
        if not args.json:
            print(("WRONG  " if code else "ok     ") + told[-1]["text"])

    check_all(session, line)
    code: int = max(one["code"] for one in told)
    if args.json:
        print(json.dumps({"is_ok": not code, "code": code, "checks": told}))
    return code


def check_all(session: Session, line: Tell) -> None:
    """Run all checks; `line` takes the result of each."""
    setup = session.setup
    line(f"dibs {client.VERSION}, Python %d.%d.%d" % sys.version_info[:3])
    try:
        setup.check()
        host = client.split_url(setup.url)[1]
        proxy = client.proxy_for(host)
    except client.Failure as failure:
        line(str(failure), failure.code)
        return
    line(f"service {setup.url}, project {client.word(setup.project)}")
    remotes(setup, line)
    identity(session, line)
    line("proxy: %s" % ("%s:%d" % proxy[:2] if proxy else f"none, straight to {host}"))
    line("extra CA files: %s" % (", ".join(dict.fromkeys(client.ca_files())) or "none"))
    begun = time.time()
    try:
        reply = client.call(session, "GET", "claims?limit=1", None, 1)[0]
        line("%s answered in %d ms" % (host, 1000 * (time.time() - begun)))
        line("key: accepted" if setup.key else "key: none set, none needed")
        here = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        there = client.word(str(reply.get("server_time")))
        line(f"clocks: {there} there, {here} here (only the first counts)")
    except client.Failure as failure:
        remedy = ""
        if not failure.problem:
            remedy = f" Try {setup.url}/livez from elsewhere: is the service up?"
        line(str(failure).rstrip(".") + "." + remedy, failure.code)
    hooks(session, line)


def remotes(setup: Setup, line: Tell) -> None:
    """Report remotes that name other projects: a fork has two."""
    named = client.git_remotes(setup.root) if setup.root else {}
    others = {client.project_of(url): name for name, url in named.items()}
    others.pop(setup.project, None)
    for project, name in sorted(others.items()):
        line(
            f"the remote {client.word(name)} is another project, {client.word(project)}: if its "
            "sessions do the same tasks, share one, with DIBS_PROJECT or `init --project`"
        )


def identity(session: Session, line: Tell) -> None:
    """Report the label, the secret's source, who else could derive the secret, and where it is
    kept."""
    session.load()
    session.secret()
    line(f"label {client.word(session.label)}; secret: {source_of_secret(session)}")
    is_remote = os.environ.get("CLAUDE_CODE_REMOTE") == "true"
    if is_remote and not session.given and not session.setup.makes_secrets()[0]:
        line(
            "a new machine will be another session, for which this one's claims are taken: set "
            f"DIBS_KEY or DIBS_IDENTITY_KEY=<a key>@{client.host_port_of(session.setup.url)}"
        )
    if session.save():
        line(f"state file {session.base}.json")
    elif session.secret():
        line("no state file can be written; the secret does not need one")
    else:
        line(f"cannot write {session.base}.json: set XDG_STATE_HOME", client.USAGE)


def source_of_secret(session: Session) -> str:
    """Describe the source of the secret, and who else can derive it."""
    found, source = session.data.get("session", ""), session.data.get("from", "")
    if session.given and not (session.agent or session.sub):
        return "DIBS_SESSION as it is: anyone with that variable and no agent's id is this session"
    if session.given and not found:
        return "DIBS_SESSION as it is, until the claims made with it end; then with the agent's id"
    if source == "DIBS_SESSION":
        return "DIBS_SESSION and the agent's own id: other agents with it are other sessions"
    if source == "DIBS_IDENTITY_KEY":
        return "DIBS_IDENTITY_KEY and the name: only those with that key can derive it"
    if source == "DIBS_KEY" or found[14:15] == "8":
        return "DIBS_KEY and the name: all with the team key can derive it; see DIBS_IDENTITY_KEY"
    if found:
        return "random, in the state file: nobody else has it, and a new machine makes another"
    return "none yet, the first claim makes a random one"


def hooked(root: str | None) -> list[str]:
    """Return the files in which agents have hooks."""
    return [os.path.join(root or ".", path) for path, _ in AGENTS.values()]


def hooks(session: Session, line: Tell) -> None:
    """Report whether hooks are installed and have run."""
    parts = [name for name in client.PARTS if name != "install" and client.is_installed()]
    lacks = [name for name in parts if not client.own_text(name)]
    if lacks:
        line(client.where_to_get(lacks[0]), client.USAGE)
        return
    seen = sorted(session.data.get("hooks", {}))
    if seen:
        line("hooks seen: " + ", ".join(seen))
    elif any(client.SKILL_DIR in client.read_text(path) for path in hooked(session.setup.root)):
        line(
            "no hook has run yet: an agent runs them from its next start. A session with several "
            "repositories runs none: call `beat` now and then, `park` before waiting",
            client.REFUSED,
        )
    else:
        line("hooks are not installed here; `init` does that")
