"""Bar S8: with `offline=true` no socket is connected and no name is looked up, and an attempt says who made it."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune import offline
from finetune.errors import EXIT_FAILED, NetworkForbidden

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = "192.0.2.1"
"""An address of documentation (RFC 5737), which nobody has."""


def connect(family: int, address: Any) -> None:
    with socket.socket(family) as sock:
        sock.settimeout(0.01)
        sock.connect(address)


def connect_ex() -> None:
    with socket.socket() as sock:
        sock.settimeout(0.01)
        sock.connect_ex((FOREIGN, 80))


def send(call: Callable[[socket.socket], object]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        call(sock)


def in_a_thread() -> None:
    found: list[BaseException] = []

    def call() -> None:
        try:
            connect(socket.AF_INET, (FOREIGN, 80))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    raise found[0]


WAYS: dict[str, tuple[Callable[[], object], str]] = {
    "connect": (lambda: connect(socket.AF_INET, (FOREIGN, 80)), FOREIGN),
    "connect by IPv6": (lambda: connect(socket.AF_INET6, ("2001:db8::1", 80)), "2001:db8::1"),
    "connect_ex": (connect_ex, FOREIGN),
    "sendto": (lambda: send(lambda sock: sock.sendto(b"x", (FOREIGN, 53))), FOREIGN),
    "sendmsg": (lambda: send(lambda sock: sock.sendmsg([b"x"], [], 0, (FOREIGN, 53))), FOREIGN),
    "getaddrinfo": (lambda: socket.getaddrinfo("huggingface.co", 443), "huggingface.co"),
    "gethostbyname": (lambda: socket.gethostbyname("huggingface.co"), "huggingface.co"),
    "gethostbyname_ex": (lambda: socket.gethostbyname_ex("huggingface.co"), "huggingface.co"),
    "gethostbyaddr": (lambda: socket.gethostbyaddr(FOREIGN), FOREIGN),
    "getnameinfo": (lambda: socket.getnameinfo((FOREIGN, 80), 0), FOREIGN),
    "create_connection": (lambda: socket.create_connection((FOREIGN, 80), timeout=0.01), FOREIGN),
    "getfqdn": (lambda: socket.getfqdn("example.org"), "example.org"),
    "urllib": (lambda: urllib.request.urlopen("http://example.org/x", timeout=0.1), "example.org"),
    "asyncio": (lambda: asyncio.run(asyncio.open_connection(FOREIGN, 80)), FOREIGN),
    "a thread": (in_a_thread, FOREIGN),
    "the C module": (lambda: __import__("_socket").socket().connect((FOREIGN, 80)), FOREIGN),
}


@pytest.mark.bar("S8")
@pytest.mark.enable_socket
@pytest.mark.parametrize("way", WAYS)
def test_every_way_out_is_refused_and_named(way: str) -> None:
    call, host = WAYS[way]
    with offline.network(closed=True), pytest.raises(OSError) as caught:
        call()
        raise OSError(f"offline=true: {offline._guard.refused[-1]}")  # getfqdn swallows it
    told = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert any(f"{__name__} asked for {host}" in str(error) for error in told)
    assert offline._guard.refused == [f"{__name__} asked for {host}"]


@pytest.mark.bar("S8")
@pytest.mark.enable_socket
def test_this_machine_and_unix_sockets_stay_open(tmp_path: Path) -> None:
    with offline.network(closed=True):
        for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, str(tmp_path / "socket"))):
            with socket.socket(family) as server, socket.socket(family) as client:
                server.bind(address)
                server.listen()
                client.connect(server.getsockname())
        assert socket.getaddrinfo("localhost", 80)
        assert not offline._guard.refused


@pytest.mark.bar("S8")
def test_the_network_is_open_again_behind_the_block_and_so_are_the_libraries() -> None:
    with offline.network(closed=True), offline.network(closed=False):
        assert offline._guard.closed and os.environ["HF_HUB_OFFLINE"] == "1"
    assert not offline._guard.closed and "HF_HUB_OFFLINE" not in os.environ
    with offline.network(closed=False):
        assert not offline._guard.closed


@pytest.mark.bar("S8")
def test_a_job_that_cannot_go_on_says_who_asked_for_what(caplog: pytest.LogCaptureFixture) -> None:
    class Config:
        offline = True

    @offline.as_configured
    def job(config: Config, *, swallow: bool) -> str:
        try:
            socket.getaddrinfo("huggingface.co", 443)
        except OSError as error:
            if not swallow:
                raise RuntimeError("cannot load the thing") from error
        return "done"

    with pytest.raises(NetworkForbidden, match=rf"^offline=true: {__name__} asked for huggingface.co, and cannot"):
        job(Config(), swallow=False)
    assert NetworkForbidden.exit_code == EXIT_FAILED
    assert job(Config(), swallow=True) == "done"
    assert "huggingface.co; refused, and the run went on" in caplog.text


@pytest.mark.bar("S8")
def test_every_job_closes_the_network() -> None:
    from finetune.__main__ import COMMANDS

    for name in COMMANDS.keys() - {"recipes"}:
        text = (ROOT / "finetune" / "jobs" / f"{name}.py").read_text(encoding="utf-8")
        assert f"@as_configured\ndef {name}(" in text, name


@pytest.mark.bar("S8")
@pytest.mark.slow
def test_the_whole_life_of_a_run_asks_for_nothing(runs: Any) -> None:
    formats = "export.formats=[safetensors,gguf_q8_0]"
    ended = runs.run("guarded", "offline=true", formats, "training.max_steps=2", "training.save_steps=2")
    assert ended.code == 0, ended.said
    assert "offline=true:" not in ended.said
    assert (runs.path / "guarded" / "report.html").is_file()


@pytest.mark.bar("S8")
@pytest.mark.slow
def test_a_run_on_local_files_asks_for_nothing_where_it_might(runs: Any) -> None:
    """Telemetry included: the libraries have been imported before anybody could switch it off by the environment."""

    def watch() -> None:
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            host = offline._host(event, arguments) if event.startswith("socket.") else None
            if host is not None and not offline._is_own(host):
                sys.stderr.write(f"ASKED FOR {host}\n")

        sys.addaudithook(hook)

    ended = runs.run("open", "export.formats=[safetensors]", "training.max_steps=2", before=watch)
    assert ended.code == 0, ended.said
    assert "ASKED FOR" not in ended.said


@pytest.mark.bar("S8")
@pytest.mark.slow
def test_the_whole_life_of_a_run_without_any_network(runs: Any) -> None:
    """The same by the kernel's means, native code included: in a network namespace without a device."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no network namespace (unshare -rn)")
    words = ["recipe=quickstart", *runs.words("unshared", "offline=true", "training.max_steps=2")]
    done = subprocess.run(
        [unshare, "-rn", sys.executable, "-m", "finetune", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "offline=true:" not in done.stderr
    assert (runs.path / "unshared" / "report.html").is_file()
