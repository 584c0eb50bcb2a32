"""The address of one server of the store, with the login and TLS options for connections to it."""

import dataclasses
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

OPTIONS = (
    "db",
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_min_version",
    "ssl_password",
)
"""Options allowed after `?` in a store's URL, with redis-py's names."""
_VERIFY = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's address (host and port, or the path of a socket) and its login."""

    host: str = ""
    port: int = 0
    path: str = ""
    db: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The address to show to people."""
        return self.path or f"{self.host}:{self.port}"

    def at(self, host: str, port: int) -> "Endpoint":
        """Return the endpoint of another server, with the same login and options."""
        return dataclasses.replace(self, host=host, port=port)

    def login(self) -> list[tuple[str | int, ...]]:
        """Return the first commands of a new connection."""
        commands: list[tuple[str | int, ...]] = []
        if self.username or self.password:
            user = (self.username,) if self.username else ()
            commands.append(("AUTH", *user, self.password))
        if self.db:
            commands.append(("SELECT", self.db))
        return commands


def endpoint(options: Mapping[str, Any], *, tls: bool) -> Endpoint:
    """Return the endpoint for the options that redis-py's `parse_url` returned.

    Raises ValueError; its message repeats no value, since a value may be a password.
    """
    known = {"host", "port", "path", "username", "password", "connection_class", *OPTIONS}
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"has an unknown option: {', '.join(unknown)}; the known options are "
            f"{', '.join(OPTIONS)}"
        )
    local = bool(options.get("path"))
    ssl_options = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if ssl_options and not tls:
        raise ValueError("has TLS options (ssl_…), but its scheme is not rediss")
    return Endpoint(
        host="" if local else str(options.get("host") or "localhost"),
        port=0 if local else int(options.get("port") or 6379),
        path=str(options.get("path") or ""),
        db=int(options.get("db") or 0),
        username=str(options.get("username") or ""),
        password=str(options.get("password") or ""),
        tls=_context(ssl_options) if tls else None,
    )


def _context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return the TLS context. It verifies the certificate and the host name unless `options` turn
    that off. Raises ValueError."""
    context = ssl.create_default_context()
    verify = str(options.get("ssl_cert_reqs", "required")).lower()
    if verify not in _VERIFY:
        raise ValueError(f"has an ssl_cert_reqs that is not one of {', '.join(_VERIFY)}")
    context.check_hostname = bool(options.get("ssl_check_hostname", True)) and verify != "none"
    context.verify_mode = _VERIFY[verify]
    try:
        if certificate := options.get("ssl_certfile"):
            context.load_cert_chain(
                certificate, options.get("ssl_keyfile"), options.get("ssl_password")
            )
        places = [options.get(f"ssl_ca_{name}") for name in ("certs", "path", "data")]
        if any(places):
            context.load_verify_locations(*places)
        if least := options.get("ssl_min_version"):
            context.minimum_version = ssl.TLSVersion(least)
        if ciphers := options.get("ssl_ciphers"):
            context.set_ciphers(ciphers)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        raise ValueError(
            "has TLS options that cannot be used: check the files in ssl_ca_certs, ssl_certfile "
            "and ssl_keyfile, and the values of ssl_min_version and ssl_ciphers"
        ) from None
    return context


def host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """Return the host and port of `host`, `host:port` or `[v6]:port`. Raises ValueError."""
    host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not host:
        host, port = text, ""
    host = unquote(host.strip("[]"))
    if not host or any(char.isspace() for char in host):
        raise ValueError
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError
    return host, int(port) if port else default_port
