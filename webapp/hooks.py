"""How is somebody's own program told that a search ended? One POST to an address that must not lead inside.

The address is somebody's to choose, so it is asked of this machine's network as a stranger would: only what is public
is connected to (WEBHOOK_PRIVATE=1 lifts that), what was checked is what is connected to, and nothing is followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import threading
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from django.utils.crypto import salted_hmac

from nasengine.names import CONTROL, shown

LOOK_UP_SECONDS, SECONDS = 5.0, 10.0
"""For looking up a name; for connecting, and again for all that is said then, however slowly."""
LONGEST = 500
USUAL_PORTS = {"http": 80, "https": 443}
SCHEMES = tuple(f"{scheme}://" for scheme in USUAL_PORTS)
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that a gateway turns into the IPv4 address at their end."""

UNICAST = ipaddress.ip_network("2000::/3")
"""What the internet uses of IPv6; the rest is of this machine, this network, or an old way to write IPv4."""

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Undelivered(Exception):
    """Nobody took it; the text says why, for whoever gave the address."""


class Unknown(Undelivered):
    """Its name leads nowhere, for now."""


class LeadsInside(Undelivered):
    """Its name leads inside, for now."""


class Forbidden(Undelivered):
    """It is an address that nobody is told at, whatever its name leads to; another try would not change that."""


def check(address: str, *, private: bool) -> None:
    """Looks where an address leads now. A name that nobody knows in time may be known by the time that it is told.

    Raises:
        Forbidden: if it is no address, or one inside.
        LeadsInside: if its name leads there.
    """
    host, port = _place(address, private=private)
    with contextlib.suppress(Unknown):
        _looked_up(host, port, private=private)


def problem_of(address: str, *, private: bool) -> str:
    """What is wrong with an address, as far as it can be seen without asking; empty if nothing is.

    >>> problem_of("https://example.org:8443/coppice?x=1", private=False)
    ''
    >>> print(problem_of("ftp://example.org", private=False))
    'ftp://example.org' is no web address; begin it with https:// or http://
    """
    if len(address) > LONGEST:
        return f"it has {len(address):,} characters; use at most {LONGEST}"
    if not address.lower().startswith(SCHEMES):
        return f"'{shown(address)}' is no web address; begin it with https:// or http://"
    if CONTROL.search(address) or " " in address or not address.isascii():
        return f"'{shown(address)}' has blanks or unusual characters; write them with percent signs"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return f"'{address}' cannot be read as a web address; write it like https://example.org/coppice"
    if not host:
        return f"'{address}' is no web address; write it like https://example.org/coppice"
    if parts.username is not None or parts.password is not None:
        return "it holds a name or password, which addresses do not keep secret; check the signature instead"
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return "" if private or is_public(literal) else inside(host)


def inside(host: str) -> str:
    """Why it is not connected to. Which address its name has in here is not said: that is this network's own."""
    return (
        f"{host} belongs to this machine or a private network, and only public addresses are told, unless whoever runs "
        "this server sets WEBHOOK_PRIVATE=1"
    )


def is_public(ip: IP) -> bool:
    """Whether everybody in the internet reaches the same machine by it.

    >>> [is_public(ipaddress.ip_address(text)) for text in ("93.184.216.34", "10.0.0.1", "::ffff:127.0.0.1", "fec0::1")]
    [True, False, False, False]
    """
    if isinstance(ip, ipaddress.IPv6Address):
        meant = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in TRANSLATED:
            meant = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if meant is not None:
            return is_public(meant)
        if ip not in UNICAST:
            return False
    return ip.is_global and not ip.is_multicast


def secret_of(nonce: str) -> str:
    """What the deliveries of a webhook are signed with: made of its nonce and our own key, so no database holds it."""
    return f"coppice_hook_{salted_hmac('coppice.webhook', nonce, algorithm='sha256').hexdigest()}"


def signature(secret: str, body: bytes) -> str:
    """What X-Coppice-Signature says.

    >>> signature("key", b"{}")[:22]
    'sha256=a777724d943eb48'
    """
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def post(address: str, body: bytes, *, secret: str, private: bool) -> None:
    """Sends it once.

    Raises:
        Undelivered: if it was not taken.
        Forbidden: if no other try will be, either.
    """
    host, port = _place(address, private=private)
    parts = urlsplit(address)
    secure = parts.scheme == "https"
    usual = USUAL_PORTS[parts.scheme]
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    headers = {
        "Host": f"{f'[{host}]' if ':' in host else host}{'' if port == usual else f':{port}'}",
        "Content-Type": "application/json",
        "User-Agent": "Coppice",
        "X-Coppice-Signature": signature(secret, body),
    }
    is_late = threading.Event()
    try:
        plain = _connected(host, port, private=private)
        with Deadline(plain, is_late):
            connection.sock = _wrapped(plain, host) if secure else plain
            connection.request("POST", path, body, headers)
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        if is_late.is_set() or isinstance(error, TimeoutError):
            raise Undelivered(f"{host} did not answer within {SECONDS:g} seconds.") from None
        raise Undelivered(f"{host} could not be talked to: {shown(str(error)) or type(error).__name__}.") from None
    finally:
        connection.close()
    if 300 <= status < 400:
        raise Undelivered(f"{host} answered {status}, a redirect, which is not followed; give the address it leads to.")
    if not 200 <= status < 300:
        raise Undelivered(f"{host} answered {status}; expected 200.")


def _place(address: str, *, private: bool) -> tuple[str, int]:
    """Host and port of a sound address."""
    if problem := problem_of(address, private=private):
        raise Forbidden(f"{problem}.")
    parts = urlsplit(address)
    return str(parts.hostname), parts.port or USUAL_PORTS[parts.scheme]


def _looked_up(host: str, port: int, *, private: bool) -> list[Any]:
    """What the machine's resolver says of a host; each of its addresses is one that may be told."""
    try:
        found = _resolved(host, port)
    except TimeoutError:
        raise Unknown(f"{host} was not found within {LOOK_UP_SECONDS:g} seconds; does its name server work?") from None
    except (OSError, UnicodeError):
        raise Unknown(f"{host} is not known; is it spelt right?") from None
    ips = [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]
    if not (private or all(map(is_public, ips))):
        raise LeadsInside(f"{inside(host)}.")
    return found


def _resolved(host: str, port: int) -> list[Any]:
    """What the resolver says, if it does so in time. It cannot be stopped: whoever waits for it is a thread."""
    said: Future[list[Any]] = Future()

    def ask() -> None:
        try:
            said.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            said.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return said.result(timeout=LOOK_UP_SECONDS)


def _connected(host: str, port: int, *, private: bool) -> socket.socket:
    """A connection to one of the host's addresses; none is looked up again after it was checked."""
    found = _looked_up(host, port, private=private)
    failure: OSError | None = None
    for family, kind, protocol, _, place in found:
        made = socket.socket(family, kind, protocol)
        made.settimeout(SECONDS / len(found))
        try:
            made.connect(place)
        except OSError as error:
            made.close()
            failure = error
        else:
            made.settimeout(SECONDS)
            return made
    raise failure or OSError("it has no address")


def _wrapped(plain: socket.socket, host: str) -> ssl.SSLSocket:
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


class Deadline:
    """Ends what is said over a socket when the time is up, even if every single word came soon enough."""

    def __init__(self, plain: socket.socket, is_late: threading.Event) -> None:
        self.copy = plain.dup()  # wrapping in TLS takes the first one away
        self.is_late = is_late
        self.timer = threading.Timer(SECONDS, self._end)
        self.timer.daemon = True

    def _end(self) -> None:
        self.is_late.set()
        with contextlib.suppress(OSError):  # it has ended meanwhile
            self.copy.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()
        self.timer.join()
        self.copy.close()
