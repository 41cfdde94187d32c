"""The kinds of values that a settings file holds: how each is written, checked and turned into what the code uses.

Every refusal is a `PydanticCustomError` of type `deltaferry` whose message says what is wrong and never repeats the
value: a secret may have been written in the wrong place.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, PlainValidator
from pydantic_core import PydanticCustomError

from deltaferry.model.zones import is_time_zone
from deltaferry.planning.throttle import parse_throttle
from deltaferry.planning.windows import parse_windows
from workers.secrets import SecretRef, is_reference

STRICT = ConfigDict(extra="forbid", strict=True)
"""The `__pydantic_config__` of every table: unknown keys and wrong types are mistakes."""

REFUSED = "deltaferry"
"""The type of the errors that are raised here; their message is a sentence part such as `is not a URL`."""

_ISO_DURATION = re.compile(
    r"P(?:(?P<d>[0-9]{1,6})D)?(?:T(?=[0-9])(?:(?P<h>[0-9]{1,6})H)?(?:(?P<m>[0-9]{1,6})M)?(?:(?P<s>[0-9]{1,6}(?:\.[0-9]{1,6})?)S)?)?"
)
_SHORT_DURATION = re.compile(
    r"(?:(?P<d>[0-9]{1,6})d)?(?:(?P<h>[0-9]{1,6})h)?(?:(?P<m>[0-9]{1,6})m)?(?:(?P<s>[0-9]{1,6}(?:\.[0-9]{1,6})?)s)?"
)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
_ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_MAX_PORT = 65535
_SHORTEST_SCHEDULE = timedelta(seconds=10)
"""Between two starts of a workflow on a schedule: below that it would hardly end before the next."""


def refused(problem: str) -> PydanticCustomError:
    """Return the refusal of a value; `problem` follows the setting's name in the sentence."""
    return PydanticCustomError(REFUSED, "{problem}", {"problem": problem})


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP endpoint."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as it is written in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_duration(text: str) -> timedelta | None:
    """Return what an ISO 8601 duration (`PT1H30M`) or a short one (`1h30m`, `2.5s`) stands for; None if it is neither."""
    match = _ISO_DURATION.fullmatch(text) or _SHORT_DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds = (float(match[unit] or 0) for unit in "dhms")
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def parse_host_port(text: str) -> HostPort | None:
    """Return `host:port` in its two parts, or None if it is not that; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= _MAX_PORT:
        return None
    return HostPort(host.strip("[]"), int(port))


def _duration(value: Any) -> timedelta:
    duration = parse_duration(value) if isinstance(value, str) else None
    if duration is None or duration <= timedelta(0):
        raise refused("is not a duration above zero")
    return duration


def _period(value: Any) -> timedelta:
    if value == "never":
        return timedelta(0)
    try:
        return _duration(value)
    except PydanticCustomError:
        raise refused("is neither a duration above zero nor `never`") from None


def _schedule_interval(value: Any) -> timedelta:
    interval = _period(value)
    if timedelta(0) < interval < _SHORTEST_SCHEDULE:
        raise refused("is less than 10 seconds")
    return interval


def _host_port(value: Any) -> HostPort:
    parsed = parse_host_port(value) if isinstance(value, str) else None
    if parsed is None:
        raise refused("is not a host and a port")
    return parsed


def _secret(value: Any) -> SecretRef:
    if not isinstance(value, str) or not is_reference(value):
        raise refused("must be a reference to a secret, not the secret itself")
    return SecretRef(value)


def _file(value: Any) -> Path:
    if not isinstance(value, str) or "\0" in value or not value.startswith(("/", "~/")):
        raise refused("is not an absolute path")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise refused("begins with `~`, but there is no home directory") from None


def _key_file(value: Any) -> str:
    if not isinstance(value, str) or not (_ENV.fullmatch(value) or (value.startswith(("/", "~/")) and "\0" not in value)):
        raise refused("is neither an absolute path nor a variable that holds one")
    return value


def url_problem(value: Any, schemes: tuple[str, ...]) -> str | None:
    """Return what is wrong with a base URL, or None: scheme, host and path only, so that no secret hides in it."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        usable = parts is not None and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return "is not a URL"
    if parts is None or not usable or parts.scheme not in ("https", "http") or re.search(r"[\s\0-\x1f\\]", value):
        return "is not a URL"
    if parts.scheme not in schemes:
        return "is not an https:// URL"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "must be a plain URL without user, password, query or fragment"
    return None


def _url(value: Any) -> str:
    problem = url_problem(value, ("https", "http"))
    if problem:
        raise refused(problem)
    return str(value).rstrip("/")


def _https_url(value: Any) -> str:
    problem = url_problem(value, ("https",))
    if problem:
        raise refused(problem)
    return str(value).rstrip("/")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise refused("is not a name of 1 to 32 small letters, digits and inner hyphens")
    return value


def _word(value: str) -> str:
    if not value.strip() or value != value.strip() or not value.isprintable():
        raise refused("is empty, or begins or ends with a space")
    return value


def _time_zone(value: str) -> str:
    if not is_time_zone(value):
        raise refused("is not an IANA time zone")
    return value


def _windows(value: str) -> str:
    try:
        parse_windows(value)
    except ValueError as error:
        raise refused(f"cannot be read: {str(error).removesuffix('.')}") from None
    return value


def _throttle(value: str) -> str:
    try:
        parse_throttle(value)
    except ValueError as error:
        raise refused(f"cannot be read: {str(error).removesuffix('.')}") from None
    return value


def _frozen(value: dict[str, Any]) -> MappingProxyType[str, Any]:
    return MappingProxyType(value)


Duration = Annotated[timedelta, PlainValidator(_duration)]
Period = Annotated[timedelta, PlainValidator(_period)]
"""How often something is done; `never` is zero."""
ScheduleInterval = Annotated[timedelta, PlainValidator(_schedule_interval)]
"""How often a workflow is started on a schedule; `never` is zero."""
Endpoint = Annotated[HostPort, PlainValidator(_host_port)]
Secret = Annotated[SecretRef, PlainValidator(_secret)]
AbsolutePath = Annotated[Path, PlainValidator(_file)]
KeyFile = Annotated[str, BeforeValidator(_key_file)]
Url = Annotated[str, BeforeValidator(_url)]
HttpsUrl = Annotated[str, BeforeValidator(_https_url)]
Name = Annotated[str, AfterValidator(_name)]
Word = Annotated[str, AfterValidator(_word)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
WeeklyWindows = Annotated[str, AfterValidator(_windows)]
"""Weekly windows in the grammar of `deltaferry.planning.windows`, kept as their text: workflows carry it."""
WeeklyThrottle = Annotated[str, AfterValidator(_throttle)]
"""Rates by weekly windows in the grammar of `deltaferry.planning.throttle`, kept as their text."""
FrozenTable = AfterValidator(_frozen)
"""Makes a table of named entries read-only."""
