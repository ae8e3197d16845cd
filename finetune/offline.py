"""`offline=true`, enforced: inside the block every connection and every look-up of a name is refused. Used by the jobs.

An audit hook of the interpreter (PEP 578) sees what any Python module asks of any socket, however it got hold of it,
and cannot be taken out. Unix sockets and this machine's own address stay open: processes of one training talk by them.
"""

import contextlib
import functools
import ipaddress
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from finetune.errors import FinetuneError, NetworkForbidden

logger = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_LIBRARY_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Where the libraries below look before they ask the network; what starts a process hands them on."""
_INTERNET = (2, 10, 23, 30)
"""AF_INET, and AF_INET6 on Linux, Windows and macOS."""
_OWN_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "0.0.0.0", "::", "")
_CARRIERS = (
    *("socket", "_socket", "ssl", "asyncio", "http", "urllib", "selectors", "threading", "concurrent", "contextlib"),
    *("functools", "httpx", "httpx2", "httpcore", "httpcore2", "anyio", "h11", "h2", "urllib3", "requests", "aiohttp"),
)
"""Packages that carry requests of others; the caller behind them is named."""


class _Guard:
    """The one guard of this process; its hook is put in place when it is first wanted, and stays."""

    def __init__(self) -> None:
        self.closed = False
        self.installed = False
        self.refused: list[str] = []

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.closed or not event.startswith("socket."):
            return
        host = _host(event, arguments)
        if host is None or _is_own(host):
            return
        attempt = f"{_caller()} asked for {host}"
        self.refused.append(attempt)
        raise NetworkForbidden(
            f"offline=true: {attempt}. Give local folders or files for what is missing (python -m finetune prefetch "
            "downloads it beforehand), or set offline=false"
        )


_guard = _Guard()


@contextlib.contextmanager
def network(*, closed: bool) -> Iterator[None]:
    """Inside the block the network is closed, if asked; an open block inside a closed one stays closed.

    Raises:
        NetworkForbidden: something asked for the network, and the block failed for it.
    """
    if not closed or _guard.closed:
        yield
        return
    if not _guard.installed:
        sys.addaudithook(_guard.hook)
        _guard.installed = True
    _guard.refused.clear()
    _guard.closed = True
    try:
        with _libraries_offline():
            yield
    except FinetuneError:
        raise
    except Exception as error:
        if _guard.refused:
            raise NetworkForbidden(f"offline=true: {_guard.refused[0]}, and cannot go on without it") from error
        raise
    else:
        for attempt in dict.fromkeys(_guard.refused):
            logger.warning("offline=true: %s; refused, and the run went on without it", attempt)
    finally:
        _guard.closed = False


@contextlib.contextmanager
def _libraries_offline() -> Iterator[None]:
    """Tell the libraries not to try at all: by the environment, and those that have read it already directly."""
    before = {name: os.environ.get(name) for name in _LIBRARY_SWITCHES}
    os.environ.update(dict.fromkeys(_LIBRARY_SWITCHES, "1"))
    read = [sys.modules[name] for name in ("huggingface_hub.constants", "datasets.config") if name in sys.modules]
    values = [module.HF_HUB_OFFLINE for module in read]
    for module in read:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(read, values, strict=True):
            module.HF_HUB_OFFLINE = value
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def as_configured(job: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Close the network while a job runs whose configuration, the first argument, says `offline=true`."""

    @functools.wraps(job)
    def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        config = arguments[0] if arguments else named.get("config")
        with network(closed=bool(getattr(config, "offline", False))):
            return job(*arguments, **named)

    return call


def _host(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return whom an audited call would reach; None for what reaches nobody (docs.python.org, "Audit events table")."""
    match event.removeprefix("socket."), arguments:
        case "connect" | "sendto" | "sendmsg", (sock, address, *_):
            is_internet = int(getattr(sock, "family", 2)) in _INTERNET
            return _text(address[0]) if is_internet and isinstance(address, tuple) and address else None
        case "getaddrinfo" | "gethostbyname" | "gethostbyaddr", (host, *_):
            return _text(host)
        case "getnameinfo", (address, *_):
            return _text(address[0])
    return None


def _text(host: Any) -> str:
    if isinstance(host, bytes | bytearray):
        return bytes(host).decode(errors="replace")
    return "" if host is None else str(host)


def _is_own(host: str) -> bool:
    """Whether a host is this machine by its loopback address."""
    if host.lower() in _OWN_NAMES:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


def _caller() -> str:
    """Name the module that wants the network: the nearest one that does not merely carry requests."""
    frame = sys._getframe(1)
    name = ""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name != __name__ and name.partition(".")[0] not in _CARRIERS:
            return name
        frame = frame.f_back
    return name or "a module"
