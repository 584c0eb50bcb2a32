"""All settings, each with its unit, its default and its reason. Nothing else reads the environment.

`dibs serve --help` and the table in docs/operations.md are generated from this class.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from dibs.forge_settings import ForgeSettings
from dibs.setting_values import (
    KEY_CHARS,
    Duration,
    Keys,
    Networks,
    Projects,
    Share,
    Size,
    is_loopback,
    is_public_url,
    key_faults,
)

DAY_S = 86_400
BACKLOG = 2_048
"""Connections that may wait to be accepted, mostly during a restart; free, so not a setting."""


class Settings(ForgeSettings):
    """The settings of `dibs serve`, from environment variables DIBS_… and flags."""

    model_config = SettingsConfigDict(env_prefix="DIBS_", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 in a container")
    port: int = Field(8080, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one")
    data_dir: Path = Field(
        Path("dibs-data"), description="directory of the private store's files, if it is used"
    )
    store_memory: Share = Field(
        "25%",
        description="memory limit of the private store: a share of the memory of the container or "
        "the host, which leaves room for the service, log rewrites and the writes of holders, or a "
        "size like 512mb. At the limit new claims are refused, while heartbeats and releases work; "
        "0: no limit",
    )
    disk_free_percent: int = Field(
        15,
        ge=0,
        le=90,
        description="new claims are refused when the private store's volume has less free space "
        "than this share of it and less than DIBS_DISK_FREE_BYTES, so that heartbeats and releases "
        "still work; 0: never",
    )
    disk_free_bytes: Size = Field(
        100 << 20,
        description="free space that is enough on a large volume, where DIBS_DISK_FREE_PERCENT "
        "would require more; 0: new claims are never refused for lack of disk space",
    )
    redis_url: SecretStr | None = Field(
        None,
        description="the store to use: redis://, rediss://, unix://, redis+sentinel:// or "
        "redis+cluster://; without it dibs starts a private Valkey. A flag is visible in the "
        "process list: set the variable if the URL has a password",
    )
    replicas: int = Field(
        0,
        ge=0,
        description="replicas of the store that must confirm a grant, release or break before it "
        "is answered, so that a failover loses no answered call; 0: only the primary",
    )
    memory: bool = Field(
        False,
        description="keep claims in this process only, to try dibs out: they are lost when it "
        "ends; needs the extra dibs[memory]",
    )
    team_key: Keys = Field(
        (),
        description="keys that every call must carry, comma-separated so that they can be rotated; "
        f"at least {KEY_CHARS} characters each; none: allowed only on loopback, or with DIBS_OPEN",
    )
    ci_key: Keys = Field(
        (),
        description="keys for CI, comma-separated: they may read, verify and resolve (report that "
        "a pull request was merged or rejected), nothing else; none: only an admin key may resolve",
    )
    open: bool = Field(
        False,
        description="let in everybody who can reach the URL: required to listen on other addresses "
        "than loopback without a team key",
    )
    read: Literal["key", "open"] = Field(
        "key",
        description="who may read claims, events and the board when there is a team key: `key`, "
        "callers who have it; `open`, everybody",
    )
    projects: Projects = Field(
        (),
        description="the projects that the service accepts, comma-separated: exact names, or "
        "acme.* for all of acme; none: any",
    )
    admin_key: Keys = Field(
        (),
        description="keys of people who may break a claim, hold, unhold and retry a task, "
        "comma-separated; none: nobody may",
    )
    default_ttl: Duration = Field(
        1800, description="ttl of a claim that names none: longer than any single build step"
    )
    min_ttl: Duration = Field(10, description="shortest ttl: below it a slow network loses claims")
    max_ttl: Duration = Field(DAY_S, description="longest ttl")
    park_ttl: Duration = Field(4 * 3600, description="how long a parked claim waits for a person")
    review_ttl: Duration = Field(7 * DAY_S, description="how long a review waits for its verdict")
    grace: Duration = Field(30, description="how long a lapsed task is kept for its last holder")
    handover: Duration = Field(60, description="how long a free task is kept for its queue's head")
    ticket: Duration = Field(
        300, description="how long a place in a queue is kept after its session last asked"
    )
    max_hold: Duration = Field(DAY_S, description="longest tenure: no heartbeat extends past it")
    retention: Duration = Field(DAY_S, description="how long the record of an ended claim is kept")
    done_retention: Duration = Field(
        90 * DAY_S,
        description="how long a done task stays done, if DIBS_RECORD_BYTES leaves room",
    )
    history_retention: Duration = Field(
        90 * DAY_S,
        description="how long the history keeps who had a task and how that ended, if "
        "DIBS_RECORD_BYTES leaves room; at least DIBS_RETENTION and DIBS_DONE_RETENTION, even if "
        "set shorter",
    )
    max_attempts: int = Field(
        5,
        ge=0,
        le=1_000,
        description="attempts that may fail (lapsed, abandoned, broken or rejected) before a task "
        "is failed and no session may claim it until a person retries it; a listed task may have "
        "its own number; 0: no limit",
    )
    max_waiting: int = Field(
        0,
        ge=0,
        description="tasks of a project that may wait for people (parked, in review or failed) "
        "before `next` gives no more, so that work does not pile up in front of them; 0: no limit",
    )
    max_claims_per_session: int = Field(50, ge=1, description="live claims of one session")
    max_claims_per_project: int = Field(2_000, ge=1, description="live claims in one project")
    max_claims_per_address: int = Field(
        500,
        ge=0,
        description="live claims in one project from one address (in IPv6 a /64) without a key: a "
        "quarter of the project's limit, so that one address never locks a team out; 0: no limit",
    )
    record_bytes: Size = Field(
        18 << 20,
        ge=64 << 10,
        description="size limit of one project's records, live and ended claims alike: at the "
        "limit history is dropped, the oldest first (tenures, and tasks that are not listed and "
        "were done longer than DIBS_RETENTION ago); if that is not enough, new claims are refused, "
        "while heartbeats and releases work",
    )
    event_bytes: Size = Field(
        6 << 20,
        ge=64 << 10,
        description="size limit of one project's events; the oldest are dropped, and there are "
        "never more than 10,000",
    )
    rate_per_session: int = Field(
        20,
        ge=0,
        description="claims a second of one session, and separately as many heartbeats and "
        "releases; 0: no limit",
    )
    rate_per_project: int = Field(
        500,
        ge=0,
        description="claims a second in one project; renewals, heartbeats and releases of holders "
        "are never refused for it; 0: no limit",
    )
    reads_per_project: int = Field(
        500,
        ge=0,
        description="reads a second in one project (lists, tasks, events and boards), counted in "
        "each process; claims and heartbeats do not wait for them; 0: no limit",
    )
    new_per_address: int = Field(
        5,
        ge=0,
        description="new claims a second from one address without a key, with a burst of a "
        "minute's worth, because a team behind one address starts all at once; counted in each "
        "process; 0: no limit",
    )
    reads_per_address: int = Field(
        50,
        ge=0,
        description="reads a second from one address without a key, with a burst of ten seconds' "
        "worth; counted in each process; 0: no limit",
    )
    trusted_proxies: Networks = Field(
        (),
        description="addresses and networks, comma-separated, of the proxies in front, which pass "
        "the caller's address in DIBS_ADDRESS_HEADER; none: the header is ignored, and private "
        "peers are not counted by address, because they may be a proxy with everybody behind it",
    )
    address_header: str = Field(
        "X-Forwarded-For",
        pattern=r"^[A-Za-z0-9-]+$",
        description="header in which those proxies pass the caller's address; the last address in "
        "it that is not a trusted proxy counts. On Fly: Fly-Client-IP",
    )
    max_body: int = Field(16_384, ge=1_024, description="bytes of a request body")
    max_connections: int = Field(
        1_000,
        ge=10,
        description="connections to one process, the last tenth of them reserved for sessions' "
        "calls and health checks; a new one replaces the one that was idle longest",
    )
    keep_alive: Duration = Field(
        75,
        ge=1,
        le=3600,
        description="how long an idle connection is kept between requests: longer than the proxy "
        "in front keeps its own (usually 60s; some platforms ask for 620s)",
    )
    public_url: str | None = Field(
        None, description="the URL that people and sessions use, if it differs from the request's"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="lowest level that is logged; a refused claim is debug, an outage is error",
    )
    log_format: Literal["text", "json"] = Field("text", description="format of log lines")

    @model_validator(mode="after")
    def _safe_together(self) -> Self:
        problems = []
        if not self.min_ttl <= self.default_ttl <= self.max_ttl:
            problems.append("DIBS_DEFAULT_TTL must lie between DIBS_MIN_TTL and DIBS_MAX_TTL")
        if self.min_ttl < 1:
            problems.append("DIBS_MIN_TTL must be at least 1s")
        if self.max_ttl > self.max_hold:
            problems.append("DIBS_MAX_TTL must not exceed DIBS_MAX_HOLD")
        if self.handover < 1 or self.ticket < self.handover:
            problems.append("DIBS_TICKET must be at least DIBS_HANDOVER, and that at least 1s")
        if self.retention < self.grace:
            problems.append("DIBS_RETENTION must not be shorter than DIBS_GRACE")
        if self.default_ttl > self.park_ttl:
            problems.append("DIBS_PARK_TTL must not be shorter than DIBS_DEFAULT_TTL")
        if self.public_url and not is_public_url(self.public_url):
            problems.append("DIBS_PUBLIC_URL must be an http:// or https:// URL without ? and @")
        problems += self._key_problems()
        problems += self._store_problems()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _key_problems(self) -> list[str]:
        problems = []
        names = ("team_key", "admin_key", "ci_key", "github_secret")
        named = {f"DIBS_{name.upper()}": getattr(self, name) for name in names}
        for name, keys in named.items():
            problems += key_faults(name, keys)
        for one, other in combinations(named, 2):
            if set(named[one]) & set(named[other]):
                problems.append(f"{one} and {other} have a key in common")
        if self.open and self.team_key:
            problems.append("DIBS_OPEN lets everybody in and DIBS_TEAM_KEY does not: choose one")
        if self.read == "open" and not self.team_key:
            problems.append("DIBS_READ=open needs a DIBS_TEAM_KEY; without one everything is open")
        if not (self.team_key or self.open) and not self._on_loopback():
            problems.append(
                "others can reach this service, and there is no DIBS_TEAM_KEY: set one "
                "(python3 -c 'import secrets; print(secrets.token_urlsafe(32))'), or DIBS_OPEN=yes "
                "to let everybody in"
            )
        return problems

    def _on_loopback(self) -> bool:
        """Return whether only this machine can reach the service, judging by its settings."""
        if self.public_url and not is_public_url(self.public_url):
            return True  # the wrong URL is reported already
        public = urlsplit(self.public_url or "").hostname or "localhost"
        return all(map(is_loopback, (self.host, public)))

    def _store_problems(self) -> list[str]:
        problems = []
        if self.data_dir == Path("/"):
            problems.append("DIBS_DATA_DIR must be a directory of its own, not /")
        if self.memory and self.redis_url:
            problems.append("DIBS_MEMORY and DIBS_REDIS_URL exclude each other")
        if self.replicas and not self.redis_url:
            problems.append(
                "DIBS_REPLICAS needs a store that has replicas: name it with DIBS_REDIS_URL"
            )
        return problems


SECRET_FLAGS = ("team_key", "admin_key", "ci_key", "github_secret")
"""Settings without a flag, because the process list shows command lines."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting, as --help and the documentation show it."""

    name: str
    flag: str
    """'' for a setting without a flag."""
    default: str
    about: str

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"DIBS_{self.name.upper()}"


def knobs() -> list[Knob]:
    """Return all settings in the order of the class, those of the forge last."""
    found = []
    last = ForgeSettings.model_fields
    for name, field in sorted(Settings.model_fields.items(), key=lambda one: one[0] in last):
        flag = "" if name in SECRET_FLAGS else f"--{name.replace('_', '-')}"
        default = field.get_default()
        if default in (None, (), ""):
            shown = "none"
        elif isinstance(default, bool):
            shown = "on" if default else "off"
        else:
            shows = [mark.func for mark in field.metadata if isinstance(mark, PlainSerializer)]
            shown = str(shows[0](default) if shows else default)  # type: ignore[call-arg]
        found.append(Knob(name, flag, shown, str(field.description)))
    return found


def table() -> str:
    """Return the settings as the table of docs/operations.md."""
    rows = ["| variable | flag | default | what it is, and why |", "|---|---|---|---|"]
    for knob in knobs():
        flag = f"`{knob.flag}`" if knob.flag else "none: a secret"
        rows.append(f"| `{knob.variable}` | {flag} | {knob.default} | {knob.about} |")
    return "\n".join(rows) + "\n"


def load(**flags: Any) -> Settings:
    """Return the settings from `flags` and the environment; flags take precedence."""
    return Settings(**flags)
