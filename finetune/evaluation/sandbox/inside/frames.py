"""Messages over pipes: four bytes of length, then JSON. Nothing is read ahead, so that a process that is forked between
two messages holds nothing of the second."""

import json
import os

MAX_BYTES = 16_000_000


class PipeClosed(Exception):
    """The other side has ended, or sends what is no message."""


def write_frame(pipe: int, message: object) -> None:
    """Send a message.

    Raises:
        PipeClosed: nobody reads, or it is longer than 16 MB.
    """
    content = json.dumps(message).encode()
    if len(content) > MAX_BYTES:
        raise PipeClosed("the message is too long")
    waiting = len(content).to_bytes(4, "big") + content
    while waiting:
        try:
            waiting = waiting[os.write(pipe, waiting) :]
        except OSError as error:
            raise PipeClosed("nobody reads") from error


def read_frame(pipe: int) -> object:
    """Receive a message.

    Raises:
        PipeClosed: there is none, or it is not as it should be.
    """
    length = int.from_bytes(_read_exactly(pipe, 4), "big")
    if length > MAX_BYTES:
        raise PipeClosed("the message is too long")
    try:
        return json.loads(_read_exactly(pipe, length))
    except (ValueError, RecursionError) as error:
        raise PipeClosed("no JSON") from error


def _read_exactly(pipe: int, num_bytes: int) -> bytes:
    parts, missing = [], num_bytes
    while missing:
        try:
            part = os.read(pipe, min(missing, 1 << 16))
        except OSError as error:
            raise PipeClosed("cannot be read") from error
        if not part:
            raise PipeClosed("ended")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
