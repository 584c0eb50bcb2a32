"""Limits by address: the address of a request, and that only new claims and reads count."""

from pathlib import Path
from typing import Any

import pytest
from tests.harness.services import Running, new_session

from dibs.addresses import UNKNOWN, Proxies, network_of

EDGE = {"DIBS_TRUSTED_PROXIES": "127.0.0.1", "DIBS_OPEN": "yes"}


def scope(peer: str, *headers: tuple[str, str]) -> dict[str, Any]:
    return {"client": (peer, 1), "headers": [(n.encode(), v.encode()) for n, v in headers]}


async def seen(proxies: Proxies, asked: dict[str, Any]) -> str:
    """Return the client address that an application behind the proxies gets."""
    found = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope["client"][0])

    wrapped: Any = proxies.naming(app)
    await wrapped(asked, None, None)
    return str(found[0])


@pytest.mark.parametrize(
    ("peer", "named", "is_seen"),
    [
        ("10.1.2.3", ["7.7.7.7"], "7.7.7.7"),
        ("10.1.2.3", ["1.1.1.1, 7.7.7.7"], "7.7.7.7"),
        ("10.1.2.3", ["1.1.1.1", "7.7.7.7"], "7.7.7.7"),
        ("10.1.2.3", ["1.1.1.1, 7.7.7.7, 10.9.9.9, fd00::5"], "7.7.7.7"),
        ("10.1.2.3", ["7.7.7.7:4711"], "7.7.7.7"),
        ("10.1.2.3", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("::ffff:10.1.2.3", ["7.7.7.7"], "7.7.7.7"),
        ("10.1.2.3", ["10.0.0.1"], "10.1.2.3"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["7.7.7.7, nonsense"], UNKNOWN),
        ("10.1.2.3", [""], UNKNOWN),
        ("8.8.8.8", ["7.7.7.7"], "8.8.8.8"),
        ("11.1.2.3", ["7.7.7.7"], "11.1.2.3"),
    ],
)
async def test_only_a_trusted_proxy_is_believed_and_only_what_it_added_itself(
    peer: str, named: list[str], is_seen: str
) -> None:
    proxies = Proxies(["10.0.0.0/8", "fd00::/8"])
    headers = [("x-forwarded-for", value) for value in named]
    assert await seen(proxies, scope(peer, *headers)) == is_seen


async def test_nobody_is_believed_where_no_proxy_is_named_and_one_header_counts() -> None:
    forwarded = scope("10.1.2.3", ("x-forwarded-for", "7.7.7.7"))
    assert await seen(Proxies(), forwarded) == "10.1.2.3"
    fly = Proxies(["172.16.0.0/12"], "Fly-Client-IP")
    both = [("x-forwarded-for", "1.1.1.1, 66.66.66.66"), ("fly-client-ip", "7.7.7.7")]
    assert await seen(fly, scope("172.19.0.1", *both)) == "7.7.7.7"


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("2a01:4f8:1:2:3:4:5:6", "2a01:4f8:1:2::/64"),
        ("::ffff:8.8.8.8", "8.8.8.8"),
        *((private, "") for private in ("10.1.2.3", "172.19.0.1", "127.0.0.1", "::1", "fdaa::3")),
        ("100.64.0.1", ""),
        ("", ""),
    ],
)
def test_a_private_peer_is_not_counted_because_everybody_may_be_behind_it(
    host: str, counted: str
) -> None:
    assert Proxies().stranger(scope(host)) == counted


def test_behind_a_named_proxy_everybody_is_counted_but_the_proxy() -> None:
    proxies = Proxies(["10.0.0.1"])
    assert proxies.stranger(scope("10.0.0.1")) == ""
    assert proxies.stranger(scope("10.0.0.2")) == "10.0.0.2"
    assert proxies.stranger(scope(UNKNOWN)) == UNKNOWN
    assert network_of(scope("2a01:4f8:1:2:3:4:5:6")) == "2a01:4f8:1:2::/64"


def ask(
    service: Running, address: str, act: str, session: str, key: str = "", **body: Any
) -> tuple[int, Any, dict[str, str]]:
    headers = {"X-Forwarded-For": f"9.9.9.9, {address}"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return service.ask("POST", f"/v1/{body.pop('project', 'p')}/{act}", body, session, **headers)


def test_an_address_that_makes_too_much_is_refused_what_is_new_and_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    env = EDGE | {"DIBS_NEW_PER_ADDRESS": "1"}
    with Running("--data-dir", str(tmp_path / "d"), env=env) as service:
        ann = new_session()
        fence = ask(service, "7.7.7.7", "claim", ann, task="mine")[1]["fence"]
        for group in range(3):
            tasks = [f"T-{group}-{number}" for number in range(25)]
            assert ask(service, "7.7.7.7", "claim", new_session(), all_of=tasks)[0] == 201
        for project in ("p", "a.new.one"):
            status, told, headers = ask(
                service, "7.7.7.7", "claim", new_session(), task="T-1", project=project
            )
            assert (status, told["code"], told["whose"]) == (429, "rate-limited", "address")
            assert 1 <= int(headers["retry-after"]) <= 20
            assert "DIBS_NEW_PER_ADDRESS" in told["detail"]
        # The address keeps its claims, and gets answers about those of others.
        assert ask(service, "7.7.7.7", "claim", ann, task="mine")[1]["fence"] == fence
        assert ask(service, "7.7.7.7", "claim", new_session(), task="mine")[0] == 409
        assert ask(service, "7.7.7.7", "heartbeat", ann, task="mine")[0] == 200
        assert ask(service, "7.7.7.7", "release", ann, task="mine")[0] == 200
        assert ask(service, "7.7.7.8", "claim", new_session(), task="T-1")[0] == 201
        # The proxy's own checks count for no address.
        assert service.claim("T-2")[0] == 201


def test_an_address_has_a_share_of_a_projects_claims_and_others_the_rest(tmp_path: Path) -> None:
    env = EDGE | {"DIBS_MAX_CLAIMS_PER_ADDRESS": "3", "DIBS_MAX_CLAIMS_PER_PROJECT": "6"}
    with Running("--data-dir", str(tmp_path / "d"), env=env) as service:
        for number in range(3):
            assert ask(service, "7.7.7.7", "claim", new_session(), task=f"T-{number}")[0] == 201
        status, told, _ = ask(service, "7.7.7.7", "claim", new_session(), task="T-9")
        assert (status, told["code"], told["whose"], told["limit"]) == (429, "quota", "address", 3)
        assert ask(service, "2a00::1", "claim", new_session(), task="T-9")[0] == 201
        other = {"project": "other", "task": "T-9"}
        assert ask(service, "7.7.7.7", "claim", new_session(), **other)[0] == 201


def test_with_a_key_no_limit_by_address_counts(tmp_path: Path) -> None:
    key = "a-team-key-for-this-test"
    env = {
        "DIBS_TRUSTED_PROXIES": "127.0.0.1",
        "DIBS_TEAM_KEY": key,
        "DIBS_READ": "open",
        "DIBS_NEW_PER_ADDRESS": "1",
        "DIBS_READS_PER_ADDRESS": "1",
        "DIBS_MAX_CLAIMS_PER_ADDRESS": "1",
    }
    with Running("--data-dir", str(tmp_path / "d"), env=env) as service:
        for group in range(4):
            tasks = [f"T-{group}-{number}" for number in range(25)]
            assert ask(service, "7.7.7.7", "claim", new_session(), key, all_of=tasks)[0] == 201
        keyed = {"Authorization": f"Bearer {key}", "X-Forwarded-For": "7.7.7.7"}
        assert {service.ask("GET", "/v1/p/claims/T-1", **keyed)[0] for _ in range(30)} == {200}
        anonymous = {"X-Forwarded-For": "7.7.7.7"}
        statuses = [service.ask("GET", "/v1/p/claims/T-1", **anonymous)[0] for _ in range(30)]
        assert statuses[:10] == [200] * 10
        assert statuses[-1] == 429
        assert service.ask("GET", "/v1/p/claims/T-1", X_Forwarded_For="7.7.7.8")[0] == 200
        assert service.ask("GET", "/", **anonymous)[0] == 429
        assert service.ask("GET", "/livez", **anonymous)[0] == 200
