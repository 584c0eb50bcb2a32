#!/usr/bin/env python3
"""dibs: call dibs on a task before you start it.

One service per team hands out claims: leases on tasks, held by a session, which end by
themselves when the session stops. This file is the whole client: copy it, read it, run it.

  dibs claim TASK [--ttl 30m] [--note TEXT]     take a task; again, to renew it
  dibs claim TASK --any T2 T3 | --all T2 T3     the first free one | all of them or none
  dibs claim TASK --wait 10m | --queue          queue for it | ask once, keeping the place
  dibs beat | park [TASK] [--note TEXT]         I am working | I wait for a person
  dibs done TASK [--pr URL] [--note TEXT]       finished: nobody needs to do it again
  dibs release TASK | --all [--note TEXT]       not finished: somebody else may have it
  dibs list [--mine] | show TASK | watch        who has what; these change nothing
  dibs verify TASK [--fence N]                  do I (does fence N) still hold it?
  dibs run TASK -- command ...                  hold it while a command runs; both end together
  dibs init --url URL | --remove                put dibs into this repository | take it out
  dibs doctor                                   what works here, and what to do about the rest
  dibs hook                                     for Claude Code's hooks, their JSON on stdin

stdout is data, one line (with --json the service's own answer); stderr is talk.
Exit codes: 0 yes, 1 refused (another has it, done, cooling), 2 usage or settings, 3 unknown
(service not reached), 4 lost (it was yours). `run` passes its command's own code on.

Settings are environment variables; dibs.conf beside this file carries url, project and gate.
  DIBS_URL      the service: https, or http on loopback
  DIBS_PROJECT  else from dibs.conf, else owner.repo from the git remote, in lower case
  DIBS_KEY      the team key, where the service has one
  DIBS_SESSION  a secret UUID (v4) for this session, where the rule below does not do
  DIBS_LABEL    the name that others see         DIBS_TTL   how long claims last, as 30m
  DIBS_GATE     what the hook does about edits without a claim: off, warn or block

Who am I? The label is public: DIBS_LABEL, else the agent's own session id. The secret is never
made from public things alone: it is DIBS_SESSION, else in the state file (mode 600, below
$XDG_STATE_HOME or ~/.local/state), else HMAC of the label under DIBS_KEY, which survives a
replaced machine, else random. Sub-agents share it; so could all who have the key.

A claim is a lease, not a lock: a frozen session may wake up after its claim went to another.
This client counts its deadline from when it *sent* the request, less a margin, and so believes
first that it lost. Where it matters, check the fence where the work lands: dibs verify.
"""

import os
import sys
import time

SERVED_FROM = "__DIBS_URL__"  # the service fills this in when it serves this file
USER_AGENT = "dibs/1"
TIMEOUT_S, HOOK_TIMEOUT_S = 5.0, 4.0
BEAT_EVERY_S = 75
YES, REFUSED, USAGE, UNKNOWN, LOST = range(5)

SKILL_DIR = ".claude/skills/dibs"
COMMAND = "python3 " + SKILL_DIR + "/dibs.py"
AGENT_IDS = (
    "CLAUDE_CODE_REMOTE_SESSION_ID",
    "CODEX_THREAD_ID",
    "CURSOR_CONVERSATION_ID",
    "COPILOT_AGENT_SESSION_ID",
    "CLAUDE_CODE_SESSION_ID",
)


def load_modules():
    """Import what talking needs. A hook runs at every tool call, and a throttled one does not."""
    global json, socket
    import json
    import socket


class Trouble(Exception):
    """An expected failure: the exit code, the sentence, and the service's problem if any."""

    def __init__(self, code, message, problem=None):
        super().__init__(message)
        self.code = code
        self.problem = problem or {}


def one_line(text):
    """Text from elsewhere, safe for a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def out(text):
    print(one_line(text))


def talk(text):
    if sys.stderr:
        print("dibs: " + one_line(text), file=sys.stderr)


def span(seconds):
    """1800 -> 30m"""
    if seconds < 120:
        return "%ds" % max(seconds, 0)
    return "%dm" % (seconds // 60) if seconds < 7200 else "%dh" % (seconds // 3600)


def seconds_of(text):
    """10m -> 600"""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    digits = text[:-1] if unit else text
    if not (digits.isascii() and digits.isdigit()):
        raise Trouble(USAGE, f"{text!r} is not a duration; write 90s, 10m or 2h")
    return int(digits) * (unit or 1)


def read_text(path):
    """The text of a small file, or '' where there is none to read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def read_conf(path):
    """`key = value` lines; # starts a comment."""
    pairs = (line.partition("=") for line in read_text(path).splitlines() if line[:1] != "#")
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def git_root(start):
    """The top of the checkout that `start` is in, or None."""
    here = os.path.abspath(start)
    while not os.path.exists(os.path.join(here, ".git")):
        here, below = os.path.dirname(here), here
        if here == below:
            return None
    return here


def git_file(root, name):
    """A file of the git directory, also in a worktree, where .git is a pointer."""
    own = os.path.join(root, ".git")
    if os.path.isfile(own):
        own = os.path.join(root, read_text(own).partition("gitdir:")[2].strip())
    shared = os.path.join(own, read_text(os.path.join(own, "commondir")).strip())
    return read_text(os.path.join(own if name == "HEAD" else shared, name))


def git_branch(root):
    head = git_file(root, "HEAD").strip() if root else ""
    return head.partition("ref: refs/heads/")[2] or None


def git_remote(root):
    """The URL of the remote `origin`, else of the first remote, else ''."""
    import re

    section = r'\[remote "(.+?)"\][^\[]*?\burl *= *"?([^\s"]+)'
    urls = re.findall(section, git_file(root, "config"))
    return dict(urls).get("origin") or (urls[0][1] if urls else "")


def project_of(remote):
    r"""git@host:Owner/Repo.git, https://host/owner/repo, C:\owner\repo -> owner.repo"""
    path = remote.lower().replace("\\", "/")
    path = path.partition("://")[2].partition("/")[2] if "://" in path else path.split(":")[-1]
    parts = [part for part in path.split("/") if part.strip("~.")]
    name = ".".join(parts[-2:])
    name = name[:-4] if name.endswith(".git") else name
    safe = (c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    return "".join(safe).lstrip("._-")[:100]


class Setup:
    """What this call works on. Finding out costs a few small files and no network."""

    def __init__(self, start=None):
        try:
            self.root = git_root(start or os.getcwd())
        except OSError:  # the working directory is gone
            self.root = None
        own = read_conf(os.path.join(os.path.dirname(os.path.abspath(__file__)), "dibs.conf"))
        conf = read_conf(os.path.join(self.root, SKILL_DIR, "dibs.conf")) if self.root else own
        served = SERVED_FROM if SERVED_FROM.startswith("http") else ""
        url = os.environ.get("DIBS_URL") or conf.get("url") or own.get("url") or served
        self.url = url.strip().rstrip("/")
        # `own` gives no project to another repository: a session may have several.
        self.project = os.environ.get("DIBS_PROJECT", "").strip() or conf.get("project", "")
        if not self.project and self.root:
            self.project = project_of(git_remote(self.root))
        self.gate = os.environ.get("DIBS_GATE") or conf.get("gate") or "warn"
        key = os.environ.get("DIBS_KEY", "").strip()
        self.key = "" if key == "proxy-injected" else key

    def check(self, project=True):
        if not self.url:
            raise Trouble(USAGE, "no service is set: set DIBS_URL=https://… or run `dibs init`")
        split_url(self.url)
        if project and not self.project:
            raise Trouble(USAGE, "no git remote names the project: set DIBS_PROJECT=owner.repo")


def agent_id():
    """The agent's own name for this session, as people see it, or ''."""
    for name in AGENT_IDS:
        value = one_line(os.environ.get(name, ""))
        if value:
            value = value.rsplit("/", 1)[-1] if "REMOTE" in name else value
            return "session_" + value[4:] if value.startswith("cse_") else value
    return ""


def quote(text):
    """Any text as one step of a path, of a file or a URL; two texts never share one."""
    keep = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
    return "".join(chr(b) if b in keep else f"%{b:02X}" for b in text.encode("utf-8", "replace"))


def clocks():
    """The time that people set, and one that nobody can and that goes on in sleep."""
    try:
        return time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return time.time(), time.monotonic()


def is_before(ends):
    """Either clock can say that the time is over: one jumps, the other may have been frozen."""
    return all(now < end for now, end in zip(clocks(), ends))


def uuid_text(octets, version):
    """16 bytes as a UUID (RFC 9562); importing `uuid` would take longer than the request."""
    octets = bytearray(octets)
    octets[6] = octets[6] & 0x0F | version << 4
    octets[8] = octets[8] & 0x3F | 0x80
    text = octets.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def derived_secret(key, name):
    import hashlib
    import hmac

    message = b"dibs-session-v1\0" + name.encode("utf-8", "replace")
    return uuid_text(hmac.new(key.encode(), message, hashlib.sha256).digest()[:16], 8)


class Session:
    """This session in one project: who it is, and what it remembers between calls.

    data["claims"]: {task: {fence, ttl, until: by both clocks, parked}}; data["lost"]: losses that
    nobody has heard of; when things happened.
    """

    def __init__(self, setup):
        self.setup = setup
        agent, chosen = agent_id(), one_line(os.environ.get("DIBS_LABEL", ""))
        # Both: a DIBS_LABEL for a whole cloud environment must not make its sessions one.
        self.name = "+".join(filter(None, (chosen, agent)))
        self.label = chosen or agent or None
        self.given = os.environ.get("DIBS_SESSION", "").strip().lower()
        home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        self.home = os.path.join(os.path.abspath(home), "dibs")
        who = quote(self.name) or "shell"
        who += "@" + self.given[:8] if self.given else ""
        self.base = os.path.join(self.home, quote(setup.url), quote(setup.project), who)
        self.data, self.is_new = {"claims": {}, "lost": []}, True
        self.event, self.begun = None, time.time()

    def load(self):
        """Read the state file. A damaged one counts as none."""
        self.data, self.is_new = {"claims": {}, "lost": []}, True
        try:
            with open(self.base + ".json", encoding="utf-8") as file:
                data = json.load(file)
                owner = os.fstat(file.fileno()).st_uid
            for claim in data["claims"].values():
                is_before(claim["until"]), claim["fence"] + claim["ttl"], claim["parked"]
            for loss in data["lost"]:
                about_loss(loss)
            str.strip(data.get("session", "") + data.get("label", ""))
            if owner != getattr(os, "getuid", lambda: owner)():
                raise Trouble(USAGE, f"{self.base}.json is another user's: remove it")
            self.data, self.is_new = data, False
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, KeyError, AttributeError):
            talk(f"the state file {self.base}.json is damaged; starting a new one")
        except OSError as error:
            raise Trouble(USAGE, f"cannot read {self.base}.json: {error.strerror}") from None
        if not self.name:  # a shell without an agent: a name of its own, that lasts
            self.label = self.data.setdefault("label", "shell-" + os.urandom(3).hex())
        return self

    def save(self):
        """Write the state file in one step; False where that is not possible."""
        if self.event:
            self.data.setdefault("hooks", {})[self.event] = time.time()
        new = "%s.%d.new" % (self.base, os.getpid())
        try:
            with self.open_private(new, os.O_TRUNC) as file:
                json.dump(self.data, file, indent=1, sort_keys=True)
            os.replace(new, self.base + ".json")
        except OSError:
            return False
        return True

    def open_private(self, path, flags):
        """Open for writing, for nobody else to read, and never inside the repository."""
        inside = os.path.join(self.setup.root, "") if self.setup.root else None
        if (inside and path.startswith(inside)) or "/.claude/" in path:
            raise PermissionError("state does not belong into the repository")
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "w")

    def secret(self, make=False):
        """The session's UUID; '' while it has none, unless it shall `make` one."""
        found = self.given or self.data.get("session", "")
        if not found and self.setup.key and self.name:
            found = self.data["session"] = derived_secret(self.setup.key, self.name)
        if not found and make:
            found = self.data["session"] = uuid_text(os.urandom(16), 4)
            if not self.save():
                text = "cannot keep this session's secret in %s: set XDG_STATE_HOME to a private "
                text += "directory outside the repository, or DIBS_SESSION to a UUID"
                raise Trouble(USAGE, text % self.home)
        return found

    def lock(self, patience_s):
        """Take this session's turn to write: an old beat must not overtake a park."""
        try:
            import fcntl

            file = self.open_private(self.base + ".lock", 0)
        except (ImportError, OSError):  # Windows, or no place for files: do without
            return open(os.devnull)
        give_up = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except OSError:
                if time.monotonic() > give_up:
                    file.close()
                    raise Trouble(UNKNOWN, "another dibs command of this session hangs") from None
                time.sleep(0.02)

    def post(self, act, body, patience_s=20, attempts=3, timeout_s=TIMEOUT_S):
        """One write, in its turn; what its reply says about our claims is remembered."""
        with self.lock(patience_s):
            self.load().secret(make=True)
            if self.event in BEATS and self.data.get("parked_at", 0) > self.begun:
                return {}  # this beat began before a park that went first
            try:
                reply, sent = call(self, "POST", act, body, attempts, timeout_s)
                self.data.pop("unreachable_at", None)
                self.learn(act, body, reply, sent)
                return reply
            except Trouble as trouble:
                if trouble.problem:
                    self.learn(act, body, trouble.problem, None)
                elif trouble.code == UNKNOWN:
                    self.data["unreachable_at"] = time.time()
                raise
            finally:
                for text in [] if self.event else self.hear_losses():
                    talk(text)
                self.save()
                self.stamp()

    def learn(self, act, body, reply, sent):
        """`sent`: when the request left, by both clocks; None when it was refused."""
        claims, task = self.data["claims"], body.get("task")
        if sent and act == "release":
            for gone in reply.get("released", [reply]):
                claims.pop(gone.get("task"), None)
        elif sent:
            if act == "heartbeat" and not task:
                claims.clear()
            if act == "heartbeat":
                self.data["parked_at"] = time.time() if body.get("state") == "parked" else 0
            for claim in reply.get("claims", [reply]):
                left = claim["expires_in"] - max(1.0, 0.05 * claim["ttl"])
                claims[claim["task"]] = {
                    "fence": claim["fence"],
                    "ttl": claim["ttl"],
                    "until": [now + left for now in sent],
                    "parked": claim["state"] == "parked",
                }
        elif act != "claim" and reply.get("code") in ("lost", "not-holder"):
            claims.pop(task, None)
        for loss in reply.get("lost", []):
            if claims.get(loss["task"], {"fence": loss["fence"] + 1})["fence"] <= loss["fence"]:
                del claims[loss["task"]]
            self.data["lost"] = [*self.data["lost"][-4:], loss]

    def live(self):
        """The tasks that are surely ours, by our own clocks."""
        return [task for task, c in self.data["claims"].items() if is_before(c["until"])]

    def left_s(self, task):
        until = self.data["claims"].get(task, {"until": (0, 0)})["until"]
        return min(end - now for now, end in zip(clocks(), until))

    def fence(self, task):
        return self.data["claims"].get(task, {}).get("fence")

    def hear_losses(self):
        """What was lost and nobody has heard of yet."""
        lost, self.data["lost"] = self.data["lost"], []
        return [about_loss(loss) for loss in lost]

    # The stamp: three numbers that let a hook leave early. When the next beat is due, and until
    # when something is surely ours by both clocks.

    def stamp(self):
        live = [self.data["claims"][task] for task in self.live()]
        wait_s = min([BEAT_EVERY_S] + [claim["ttl"] / 3 for claim in live])
        if any(claim["parked"] for claim in live):
            wait_s = 0  # the next sign of work resumes them
        until = max([claim["until"] for claim in live], default=[0, 0])
        try:
            with self.open_private(self.base + ".stamp", os.O_TRUNC) as file:
                file.write("{:f} {:f} {:f}".format(time.time() + wait_s, *until))
        except OSError:
            pass

    def is_throttled(self, must_hold):
        """Went a beat out lately (or, if it `must_hold`, is something surely ours)?"""
        try:
            next_beat, *until = map(float, read_text(self.base + ".stamp").split())
        except ValueError:
            return False
        now = time.time()
        return is_before(until) if must_hold else now < next_beat <= now + BEAT_EVERY_S


def holder_name(holder):
    holder = holder or {}
    name = holder.get("label") or holder.get("ref") or "somebody"
    return name + (" on {}".format(holder["branch"]) if holder.get("branch") else "")


def about_loss(loss):
    text = "{} was lost: {} at {}Z".format(loss["task"], loss["reason"], str(loss["at"])[11:16])
    text += ", now with " + holder_name(loss["by"]) if loss.get("by") else ""
    return text + (" ({})".format(loss["note"]) if loss.get("note") else "")


# The wire is written out: urllib takes longer to import than a request takes, and it throws
# away what a proxy says when it refuses.


def split_url(url):
    """(is it https, host, port, path)"""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.rpartition("@")[2].partition("/")
    host, colon, port = place.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = place, "443" if scheme == "https" else "80"
    host = host.strip("[]").lower()
    if scheme not in ("http", "https") or not host or not port.isdigit() or set("?# ") & set(url):
        raise Trouble(USAGE, "DIBS_URL is not the address of a service")
    if scheme == "http" and not is_loopback(host):
        raise Trouble(USAGE, "DIBS_URL must be https: over http anybody could read the session")
    return scheme == "https", host, int(port), slash + path


def is_loopback(host):
    return host in ("localhost", "::1") or (host.startswith("127.") and host.count(".") == 3)


def proxy_for(host):
    """(host, port, user) of the proxy, or None; as set now, because its port may change."""
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    for entry in direct.lower().replace(" ", "").split(","):
        if entry == "*" or (entry and ("." + host).endswith("." + entry.lstrip("*."))):
            return None
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    if not proxy or is_loopback(host):
        return None
    user, _, place = proxy.rpartition("://")[2].strip("/").rpartition("@")
    at, _, port = place.rpartition(":")
    if not at or not port.isdigit():
        raise Trouble(USAGE, "HTTPS_PROXY is not like http://host:port")
    return at.strip("[]"), int(port), user


def ca_files():
    """The certificate bundles that a sandbox may name, as far as they exist."""
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    paths = [os.environ.get(name, "") for name in (*names, "CODEX_PROXY_CERT")]
    return [*filter(os.path.isfile, [*paths, os.path.expanduser("~/.ccr/ca-bundle.crt")])]


def tls():
    import ssl

    context = ssl.create_default_context()
    # Python 3.13 refuses certificates of some sandbox proxies that curl accepts.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    for path in ca_files():
        try:
            context.load_verify_locations(cafile=path)
        except OSError:
            talk(f"{path} holds no certificates")
    return context


def exchange(url, method, path, headers, body, timeout_s):
    """Ask once; return (status, headers, body), or raise OSError: no whole answer came."""
    is_https, host, port, prefix = split_url(url)
    place = ("[%s]:%d" if ":" in host else "%s:%d") % (host, port)
    proxy = proxy_for(host) if is_https else None
    sock = socket.create_connection(proxy[:2] if proxy else (host, port), timeout_s)
    try:
        if proxy:
            asked = {"User-Agent": USER_AGENT}
            if proxy[2]:
                from binascii import b2a_base64

                coded = b2a_base64(proxy[2].encode(), newline=False).decode()
                asked["Proxy-Authorization"] = "Basic " + coded
            status, got, _ = request(sock, "CONNECT", place, place, asked)
            if 400 <= status < 500:
                raise refused_by_policy(
                    host, got.get("x-deny-reason", "the proxy said %d" % status)
                )
            if status // 100 != 2:
                raise OSError("the proxy answered %d" % status)
        if is_https:
            sock = tls().wrap_socket(sock, server_hostname=host)
        headers = dict(headers, **{"Content-Length": len(body), "Connection": "close"})
        status, got, reply = request(sock, method, prefix + path, place, headers, body)
    finally:
        sock.close()
    if status == 403 and ("x-deny-reason" in got or reply.startswith(b"Host not in allowlist")):
        raise refused_by_policy(host, got.get("x-deny-reason", "not in its list"))
    return status, got, reply


def request(sock, method, target, host, headers, body=b""):
    """Send one request and read its reply, whole."""
    lines = [f"{method} {target} HTTP/1.1", "Host: " + host]
    lines += ["{}: {}".format(*pair) for pair in headers.items()]
    sock.sendall("\r\n".join([*lines, "", ""]).encode("utf-8") + body)
    with sock.makefile("rb") as file:
        try:
            status = 100
            while status < 200:  # 1xx: the real answer follows
                status, got = int(file.readline(1000).split()[1]), {}
                while True:
                    name, colon, text = file.readline(10000).decode("latin-1").partition(":")
                    if not colon:
                        break
                    got[name.strip().lower()] = text.strip()
            return status, got, b"" if method == "CONNECT" else read_body(file, got)
        except (ValueError, IndexError):
            raise OSError("the answer was cut short or is not HTTP") from None


def read_body(file, headers):
    """The body as its headers announce it; ValueError when less of it came."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body, size = b"", int(file.readline(100).split(b";")[0], 16)
        while size:
            chunk = file.read(size + 2)
            if len(chunk) < size + 2:
                raise ValueError
            body, size = body + chunk[:size], int(file.readline(100).split(b";")[0], 16)
        return body
    size = int(headers.get("content-length", -1))
    body = file.read(size)
    if len(body) < size:
        raise ValueError
    return body


def refused_by_policy(host, why):
    return Trouble(
        UNKNOWN,
        f"the network policy of this sandbox refuses {host} ({why}). Add this line to the environment's "
        f"allowed domains (Network access: Custom), and wait a minute: {host}",
        {"code": "refused-by-policy"},
    )


def ask(setup, method, path, headers, body=b"", timeout_s=TIMEOUT_S):
    """Ask once: (headers, body) of a success; everything else is Trouble."""
    headers = dict({"Accept": "application/json", "User-Agent": USER_AGENT}, **headers)
    if setup.key:  # without one, the sandbox's proxy may add it
        headers["Authorization"] = "Bearer " + setup.key
    try:
        status, got, raw = exchange(setup.url, method, path, headers, body, timeout_s)
    except OSError as error:
        why, problem = error.strerror or str(error) or type(error).__name__, {}
        if "certificate" in str(error).lower():
            problem = {"code": "no-trust"}
            why = "its certificate is not trusted here; set SSL_CERT_FILE to the proxy's CA"
        host = split_url(setup.url)[1]
        raise Trouble(UNKNOWN, f"{host} was not reached: {why}", problem) from None
    if 300 <= status < 400:
        text = "%s redirects to %s: set DIBS_URL to the service itself"
        text %= (setup.url, got.get("location", "elsewhere"))
        raise Trouble(UNKNOWN, text, {"code": "redirect"})
    if status >= 300 or "html" in got.get("content-type", ""):
        raise refusal(status, got, raw)
    return got, raw


def refusal(status, headers, raw):
    """The service's problem as Trouble; or somebody else's answer."""
    try:
        problem = json.loads(raw.decode())
        code, text = problem["code"], problem.get("detail") or problem["title"]
    except (ValueError, KeyError, TypeError):
        kind = headers.get("content-type", "no type").split(";")[0]
        text = "the answer was not from dibs (%d, %s): is DIBS_URL right?" % (status, kind)
        return Trouble(UNKNOWN, text)
    for error in problem.get("errors", []):
        text += " {}: {}".format(error.get("field"), error.get("message"))
    if code in ("held", "cooling", "done", "not-holder", "quota"):
        return Trouble(REFUSED, text, problem)
    if code == "lost":
        return Trouble(LOST, text, problem)
    return Trouble(UNKNOWN if status == 429 or status >= 500 else USAGE, text, problem)


def call(session, method, act, body=None, attempts=3, timeout_s=TIMEOUT_S):
    """Ask until the service answers: (its JSON, when the request left, by both clocks).

    `act` is what follows /v1/{project}/. Asking again is safe: every act is idempotent, and all
    attempts carry one key.
    """
    session.setup.check()
    headers, data = {}, b""
    if session.secret():
        headers["Dibs-Session"] = session.secret()
    if body is not None:
        headers["Idempotency-Key"] = uuid_text(os.urandom(16), 4)
        headers["Content-Type"] = "application/json"
        data = json.dumps({k: v for k, v in body.items() if v is not None}).encode()
    path = f"/v1/{quote(session.setup.project)}/{act}"
    while True:
        sent, attempts = clocks(), attempts - 1
        try:
            got, raw = ask(session.setup, method, path, headers, data, timeout_s)
            try:
                return json.loads(raw.decode()), sent
            except ValueError:
                raise refusal(200, got, raw) from None
        except Trouble as trouble:
            hopeless = trouble.problem.get("code") in ("refused-by-policy", "no-trust", "redirect")
            if trouble.code != UNKNOWN or hopeless or not attempts:
                raise
        time.sleep(0.2 + os.urandom(1)[0] / 1000)


def about_claim(claim):
    """T-12: held by session_01 on main, 12m left, fence 1234"""
    text = "{}: {}".format(claim["task"], claim["state"])
    if claim.get("holder"):
        text += " by " + ("you" if claim.get("mine") else holder_name(claim["holder"]))
    if claim["state"] in ("held", "parked"):
        text += ", %s left, fence %d" % (span(claim["expires_in"]), claim["fence"])
    return text + (", note: {}".format(claim["note"]) if claim.get("note") else "")


def report(args, reply, text=None):
    """The one line of a success."""
    claims = reply.get("claims", [reply])
    if args.json:
        print(json.dumps(reply))
    else:
        print(one_line(text or "; ".join(map(about_claim, claims)) or "no claims"))


def do_claim(args, session):
    tasks = [args.task, *(args.any or args.all or [])]
    several = "any_of" if args.any else "all_of" if args.all else None
    remote = os.environ.get("CLAUDE_CODE_REMOTE_SESSION_ID") and agent_id()
    body = {several: tasks} if several else {"task": args.task}
    body.update(
        ttl=args.ttl or os.environ.get("DIBS_TTL"),
        note=args.note,
        label=session.load().label,
        branch=git_branch(session.setup.root),
        url="https://claude.ai/code/" + remote if remote else None,
        reopen=args.reopen or None,
        queue=True if (args.queue or args.wait) and not several else None,
    )
    give_up = time.monotonic() + (seconds_of(args.wait) if args.wait else 0)
    while True:
        try:
            reply = session.post("claim", body)
            break
        except Trouble as trouble:
            problem, left_s = trouble.problem, give_up - time.monotonic()
            if left_s <= 0 or not (problem.get("code") in ("held", "cooling") or not problem):
                raise
            talk(trouble)
        # Short polls: a sandbox's proxy may cut long ones. The service keeps the place.
        time.sleep(min(left_s, 8, max(1, problem.get("retry_after") or 2)))
    if args.command == "claim":
        report(args, reply)
    for claim in reply.get("claims", [reply]):
        before = claim.get("previous") or {}
        if before.get("note"):
            talk("{} had it before: {}".format(holder_name(before["holder"]), before["note"]))
        if claim.get("flag"):
            talk("%s has lapsed %d times" % (claim["task"], claim["lapses"]))
    return YES


def do_beat(args, session):
    """beat and park"""
    body = {"note": args.note, "ttl": args.ttl}
    body["state"] = "parked" if args.command == "park" else "working"
    if args.task:
        body.update(task=args.task, fence=session.load().fence(args.task))
    reply = session.post("heartbeat", body)
    report(args, reply)
    return LOST if reply.get("lost") else YES


def do_release(args, session):
    """release and done"""
    is_done = args.command == "done"
    body = {"note": args.note, "outcome": "done" if is_done else "released"}
    if args.task:
        fence = args.fence or session.load().fence(args.task)
        body.update(task=args.task, fence=fence, pr=is_done and args.pr or None)
    elif args.all:
        body["all"] = True
    else:
        raise Trouble(USAGE, "release a TASK, or --all")
    reply = session.post("release", body)
    ended = ["{task}: {state}".format(**one) for one in reply.get("released", [reply])]
    report(args, reply, "; ".join(ended) or "no claims")
    return YES


def do_list(args, session):
    """list and watch: the service's own table, or its JSON"""
    session.load().setup.check()
    path = "/v1/%s/claims?limit=%d" % (quote(session.setup.project), args.limit)
    path += "&holder=" + quote(session.label) if args.mine else ""
    headers = {"Accept": "application/json" if args.json else "text/plain"}
    is_screen = args.command == "watch" and sys.stdout.isatty()
    while True:
        text = ask(session.setup, "GET", path, headers)[1].decode("utf-8", "replace")
        print(("\033[H\033[2J" if is_screen else "") + text.rstrip(), flush=True)
        if args.command == "list":
            return YES
        time.sleep(args.every)


def do_show(args, session):
    report(args, call(session.load(), "GET", "claims/" + quote(args.task))[0])
    return YES


def do_verify(args, session):
    """Does this fence (by default our own) still hold the task? The service says."""
    fence = args.fence or session.load().fence(args.task)
    path = f"claims/{quote(args.task)}" + ("?fence=%d" % fence if fence else "")
    try:
        claim = call(session, "GET", path)[0]
    except Trouble as trouble:
        if trouble.code == UNKNOWN and fence and not args.fence and args.task not in session.live():
            raise Trouble(LOST, f"{trouble}; by our own clock it is over") from None
        raise
    report(args, claim)
    if claim.get("current") if fence else claim.get("mine"):
        return YES
    return LOST if fence else REFUSED


def do_run(args, session):
    """Hold the task while a command runs; stop the command when the task is lost."""
    import signal
    import subprocess

    do_claim(args, session)
    claim = session.data["claims"][args.task]
    named = {"task": args.task, "fence": claim["fence"]}
    environ = dict(os.environ, DIBS_TASK=args.task, DIBS_FENCE=str(claim["fence"]))
    try:
        child = subprocess.Popen(args.words, env=environ, start_new_session=True)
    except OSError as error:
        session.post("release", named)
        raise Trouble(USAGE, f"cannot run {args.words[0]}: {error.strerror}") from None

    def tell(number, _frame=None):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            pass

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, tell)
    beat_s, last_beat, is_lost = min(claim["ttl"] / 3, 60), time.monotonic(), False
    while child.poll() is None:
        left_s = session.left_s(args.task)
        if left_s <= 0:
            tell(signal.SIGSTOP)  # nothing more happens until we know whose the task is
        if left_s <= 0 or time.monotonic() > last_beat + beat_s:
            last_beat, timeout_s = time.monotonic(), min(TIMEOUT_S, left_s) if left_s > 0 else 2
            try:
                session.post("heartbeat", dict(named, state="working"), 2, 1, timeout_s)
                tell(signal.SIGCONT)
            except Trouble as trouble:
                talk(trouble)
                is_lost = left_s <= 0 or trouble.code != UNKNOWN
        if is_lost:
            tell(signal.SIGTERM)
            tell(signal.SIGCONT)
        try:
            child.wait(5 if is_lost else min(0.5, beat_s))
        except subprocess.TimeoutExpired:
            tell(signal.SIGKILL if is_lost else 0)
    if is_lost:
        raise Trouble(LOST, f"{args.task} was lost, and the command was stopped")
    code = child.returncode if child.returncode >= 0 else 128 - child.returncode
    is_done = args.done and code == 0
    try:
        session.post("release", dict(named, outcome="done" if is_done else "released"))
    except Trouble as trouble:
        talk(trouble)
        code = LOST if trouble.code == LOST else code
    return code


BEATS = ("PostToolUse", "PostToolUseFailure", "UserPromptSubmit", "SubagentStop", "PreCompact")
PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._-/:#@=,+\"'")
VERBS = ("claim", "beat", "park", "release", "done", "list", "show", "verify", "doctor")


def do_hook():
    """Claude Code calls this at every event; whatever happens here, it goes on."""
    raw = sys.stdin.buffer.read()
    event = raw.partition(b'"hook_event_name"')[2].split(b'"', 2)[1].decode()
    session = Session(Setup(os.environ.get("CLAUDE_PROJECT_DIR")))
    session.setup.check()
    if event in BEATS and session.is_throttled(must_hold=False):
        return
    if event == "PreToolUse" and b"dibs.py" not in raw and session.is_throttled(must_hold=True):
        return
    load_modules()
    payload = json.loads(raw)
    session.event = payload["hook_event_name"]
    session.load()
    is_cloud = os.environ.get("CLAUDE_CODE_REMOTE") == "true"
    if session.event == "SessionStart":
        on_start(session, payload)
    elif session.event == "PreToolUse":
        on_tool(session, payload)
    elif not session.data["claims"]:
        session.stamp()
    elif session.event == "SessionEnd" and not is_cloud:
        session.post("release", {"all": True, "note": "its session ended"}, 2, 1, HOOK_TIMEOUT_S)
    elif session.event in ("Stop", "StopFailure", "SessionEnd"):
        state = "working" if payload.get("background_tasks") else "parked"
        session.post("heartbeat", {"state": state}, 3, 1, HOOK_TIMEOUT_S)
    elif session.event in BEATS:
        session.post("heartbeat", {"state": "working"}, 1, 1, HOOK_TIMEOUT_S)


def on_start(session, payload):
    """Facts for the agent, in at most 100 tokens."""
    was_new, source, facts = session.is_new, payload.get("source"), []
    try:
        if session.secret():
            session.post("heartbeat", {"state": "working"}, 2, 1, HOOK_TIMEOUT_S)
    except Trouble:
        facts.append("dibs was not reached just now.")
    held = [
        "{} until {}".format(task, time.strftime("%H:%MZ", time.gmtime(claim["until"][0])))
        for task, claim in session.data["claims"].items()
    ]
    facts[:0] = ["dibs: this session holds %s." % (", ".join(held[:3]) or "no task")]
    facts += [loss + "." for loss in session.hear_losses()[:2]]
    if was_new and (held or source in ("resume", "compact")):
        facts.append("This VM is new: files that were not pushed are gone.")
    facts.append(f"Tasks are claimed before work: {COMMAND} claim TASK; after it: done TASK.")
    session.save()
    out(" ".join(facts))


def on_tool(session, payload):
    """The gate, from what is known here, without asking the network."""
    tool, given = payload.get("tool_name"), payload.get("tool_input") or {}
    root, say = session.setup.root, {"hookEventName": "PreToolUse"}
    command = str(given.get("command", "")) if tool == "Bash" else ""
    words = command.split()
    words = words[1:] if words[:1] == ["python3"] else words
    cwd = payload.get("cwd") or root or "."
    if len(words) > 1 and words[1] in VERBS and set(command) <= PLAIN:
        path = words[0].strip("\"'")
        if os.path.realpath(os.path.join(cwd, path)) == os.path.realpath(__file__):
            say.update(permissionDecision="allow", permissionDecisionReason="a dibs command")
            print(json.dumps({"hookSpecificOutput": say}))
            return
    if tool == "Bash":
        is_work = "git" in words and ("commit" in words or "push" in words)
    else:
        path = given.get("file_path") or given.get("notebook_path") or ""
        path = os.path.realpath(os.path.join(cwd, path))
        is_work = root and path.startswith(os.path.join(os.path.realpath(root), ""))
    losses = session.hear_losses()
    if not losses and (session.live() or not is_work or payload.get("permission_mode") == "plan"):
        return
    if session.setup.gate == "off":
        return
    text = " ".join(loss + "." for loss in losses)
    if not session.live():
        text += f" This session holds no task. {COMMAND} claim TASK takes one."
    now, data = time.time(), session.data
    is_down = now - data.get("unreachable_at", 0) < 600
    if session.setup.gate == "block" and is_work and not session.live() and not is_down:
        say.update(permissionDecision="deny", permissionDecisionReason=text.strip())
    elif not losses and now - data.get("warned_at", 0) < 600:
        return
    else:
        data["warned_at"] = now
        say["additionalContext"] = text.strip()
    session.save()
    print(json.dumps({"hookSpecificOutput": say}))


def do_setup(args, session):
    """init and doctor live in install.py, which no claim needs: beside us, or at the service."""
    import types

    setup, here = session.setup, os.path.dirname(os.path.abspath(__file__))
    setup.url = (getattr(args, "url", None) or setup.url).rstrip("/")
    text = read_text(os.path.join(here, "install.py"))
    text = text or read_text(os.path.join(os.path.dirname(here), "skill", "install.py"))
    if not text:
        setup.check(project=False)
        text = ask(setup, "GET", "/skill/install.py", {})[1].decode()
    scope = {"client": types.SimpleNamespace(**globals()), "__name__": "dibs_install"}
    exec(compile(text, "install.py", "exec"), scope)  # noqa: S102, its source is as good as ours
    return scope["do_" + args.command](args, session)


def parser():
    import argparse

    kind = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("dibs", description=__doc__, formatter_class=kind)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    flags = {
        "--any": {"nargs": "+", "metavar": "TASK"},
        "--fence": {"type": int, "metavar": "N"},
        "--limit": {"type": int, "default": 50, "metavar": "N"},
        "--every": {"type": float, "default": 2, "metavar": "SECONDS"},
    }
    for name, do, words in (
        ("claim", do_claim, "task --any --all... --ttl= --note= --wait= --queue --reopen"),
        ("beat", do_beat, "task? --ttl= --note="),
        ("park", do_beat, "task? --ttl= --note="),
        ("done", do_release, "task --pr= --note= --fence"),
        ("release", do_release, "task? --all --note= --fence"),
        ("list", do_list, "--mine --limit"),
        ("watch", do_list, "--mine --limit --every"),
        ("show", do_show, "task"),
        ("verify", do_verify, "task --fence"),
        ("run", do_run, "task --ttl= --note= --wait= --queue --reopen --done"),
        ("init", do_setup, "--url= --project= --remove"),
        ("doctor", do_setup, ""),
    ):
        command = commands.add_parser(name)
        command.set_defaults(do=do, any=None, all=None, pr=None, task=None)
        command.add_argument("--json", action="store_true")
        for word in words.split():
            flag = word.rstrip("=?.")
            options = {"action": "store_true"} if flag.startswith("--") else {}
            options = {"nargs": "?"} if word.endswith("?") else options
            options = {} if word.endswith("=") else options
            options = {"nargs": "+"} if word.endswith("...") else options
            command.add_argument(flag, **flags.get(flag, options))
    return top


def main(argv=None):
    """Run one command; return its exit code. No expected failure ends in a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["hook"]:
        stderr, sys.stderr = sys.stderr, None
        try:
            do_hook()
        except (Exception, SystemExit, KeyboardInterrupt):
            pass  # whatever is wrong here, the agent's work goes on
        finally:
            sys.stderr = stderr
        return YES
    load_modules()
    at = argv.index("--") if argv[:1] == ["run"] and "--" in argv else len(argv)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        getattr(stream, "reconfigure", dict)(errors="backslashreplace")
    args = None
    try:
        args = parser().parse_args(argv[:at])
        args.words = argv[at + 1 :]
        return args.do(args, Session(Setup()))
    except SystemExit as end:  # argparse has said why
        return end.code if isinstance(end.code, int) else USAGE
    except Trouble as trouble:
        talk(trouble)
        if args.json and trouble.problem:
            print(json.dumps(trouble.problem))
        return trouble.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has left
        sys.stdout = None
        return YES


if __name__ == "__main__":
    sys.exit(main())
