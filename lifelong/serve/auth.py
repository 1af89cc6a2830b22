"""Who may do what: API keys with roles, and how often each may ask."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from lifelong.core.errors import ConfigError, LifelongError

Role: TypeAlias = Literal["predict", "learn", "operate"]
ROLES: tuple[Role, ...] = get_args(Role)
INTERNAL = "LIFELONG_INTERNAL_KEY"
"""The variable with which the supervisor tells both processes the trainer's key."""
LOCAL = "local"
"""The name of clients on this machine, where no keys are configured."""


class Refused(LifelongError):
    """A request that is turned away before it is looked at, with the HTTP status to say so."""

    def __init__(self, status: int, what: str, how: str, retry_after: float | None = None) -> None:
        super().__init__(f"{what}; {how}")
        self.status, self.what, self.how, self.retry_after = status, what, how, retry_after


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, of which only the hash is kept.

    Keys must be random and long (`python -c 'import secrets; print(secrets.token_urlsafe(32))'`):
    the hash is a plain SHA-256, which does not protect a guessable one.

    Attributes:
        name: who holds it; goes into the log as the source of events.
        roles: what it may do: "predict", "learn", "operate"; none of them includes another.
        sha256: of the key, in hexadecimal.
        rate: requests a second in the long run; None for no limit.
        burst: requests at once after a rest; by default those of one second, at least 1.

    Raises:
        ConfigError: no name, an unknown role or none, no SHA-256, or a limit that lets nothing by.

    Example:
        >>> Key("shop", frozenset({"predict"}), hash_of("secret"), rate=50.0).burst
        50.0
    """

    name: str
    roles: frozenset[str]
    sha256: str
    rate: float | None = None
    burst: float = 0.0

    def __post_init__(self) -> None:
        if not self.name or self.name == LOCAL:
            raise ConfigError(f"a key named {self.name!r}; name whoever holds it")
        if not self.roles or not self.roles <= set(ROLES):
            raise ConfigError(
                f"key {self.name!r} has roles {sorted(self.roles)}; give one or more of "
                f"{', '.join(ROLES)}"
            )
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ConfigError(
                f"key {self.name!r} has a sha256 of {len(self.sha256)} characters; give 64 "
                "hexadecimal ones in lower case: printf %s KEY | sha256sum"
            )
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"key {self.name!r} has a rate of {self.rate}; give one above 0")
        if self.rate is not None and self.burst < 1:
            object.__setattr__(self, "burst", max(1.0, self.rate))


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Keys:
    """Tell whether a request may pass, and whose it is.

    A key comes in the header `X-API-Key`, or as `Authorization: Bearer`. Without any keys, only
    clients of this machine may ask, with every role: the address is a loopback one, the name
    that they ask for is one of this machine's, and no proxy stands between.

    Args:
        keys: all of them; names and hashes are unique.
        clock: seconds that never go back.

    Raises:
        ConfigError: two keys of one name or hash.

    Example:
        >>> keys = Keys([Key("shop", frozenset({"predict"}), hash_of("secret"))])
        >>> keys.admit({"x-api-key": "secret"}, "192.0.2.1", "predict")
        'shop'
    """

    def __init__(
        self, keys: Iterable[Key] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = [(bytes.fromhex(key.sha256), key) for key in keys]
        for column in ("name", "sha256"):
            values = [getattr(key, column) for _, key in self._keys]
            if len(set(values)) < len(values):
                raise ConfigError(f"two keys have the same {column}; give each its own")
        self._clock = clock
        self._buckets = {key.name: _Bucket(key.burst, clock()) for _, key in self._keys}

    def admit(self, headers: Mapping[str, str], host: str | None, role: Role | None) -> str:
        """Return the name of the key that a request came with.

        Args:
            headers: of the request, names in lower case.
            host: the client's address.
            role: what is needed; None for any.

        Raises:
            Refused: 401 without a known key, 403 where its roles do not allow it, 429 where it
                asks too often; 403 for a client elsewhere where there are no keys.
        """
        if not self._keys:
            _check_local(headers, host)
            return LOCAL
        key = self._known(_presented(headers))
        if role is not None and role not in key.roles:
            raise Refused(
                403,
                f"key {key.name!r} has the roles {', '.join(sorted(key.roles))}",
                f"use a key with the role {role!r}",
            )
        if key.rate is not None:
            self._spend(key, key.rate)
        return key.name

    def _known(self, presented: str | None) -> Key:
        how = "send a key in the header X-API-Key or as Authorization: Bearer"
        if presented is None:
            raise Refused(401, "no API key", how)
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        found: Key | None = None
        for known, key in self._keys:  # to the end, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = key
        if found is None:
            raise Refused(401, "an unknown API key", how)
        return found

    def _spend(self, key: Key, rate: float) -> None:
        bucket, now = self._buckets[key.name], self._clock()
        bucket.tokens = min(key.burst, bucket.tokens + (now - bucket.at) * rate)
        bucket.at = now
        if bucket.tokens < 1:
            raise Refused(
                429,
                f"key {key.name!r} asks more than {rate:g} times a second",
                "wait as the header Retry-After says",
                retry_after=(1 - bucket.tokens) / rate,
            )
        bucket.tokens -= 1


def hash_of(key: str) -> str:
    """Compute the SHA-256 of a key as `Key` takes it.

    Example:
        >>> hash_of("secret")[:8]
        '2bb80d53'
    """
    return hashlib.sha256(key.encode()).hexdigest()


def _presented(headers: Mapping[str, str]) -> str | None:
    key = headers.get("x-api-key")
    if key is None:
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        key = rest.strip() if scheme.lower() == "bearer" else None
    return key or None


def _check_local(headers: Mapping[str, str], host: str | None) -> None:
    how = "configure API keys to let others in"
    if not _is_loopback(host):
        raise Refused(403, "no keys are configured, so only clients on this machine may ask", how)
    # A proxy on this machine has a loopback address too, whoever is behind it.
    if "x-forwarded-for" in headers or "forwarded" in headers:
        raise Refused(403, "no keys are configured, and the request came through a proxy", how)
    # A web page elsewhere can point its own name at 127.0.0.1, and its readers' browsers at us.
    asked = re.sub(r":\d+$", "", headers.get("host", "localhost"))
    if asked != "localhost" and not _is_loopback(asked.strip("[]")):
        what = f"no keys are configured, and the request asks for the host {asked[:60]!r}"
        raise Refused(403, what, "ask for localhost, or configure API keys")


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
