"""A filter of system calls (seccomp, classic BPF): what no program under test needs, and what evades the other limits.

Shared memory without a mapping (memfd, System V) counts in no limit of memory; sockets of some families (vsock) know
no network namespace; keys, tracing, mounts and modules are the larger part of the kernel's known faults.
"""

import ctypes
import errno
import os
import socket
import sys

from .kernel import control

_DENIED = {
    "x86_64": (
        *(29, 64, 68, 240),  # shmget semget msgget mq_open
        *(101, 310, 311),  # ptrace process_vm_readv process_vm_writev
        *(155, 161, 165, 166, 272, 308),  # pivot_root chroot mount umount2 unshare setns
        *(175, 313, 246, 320),  # init_module finit_module kexec_load kexec_file_load
        *(248, 249, 250),  # add_key request_key keyctl
        *(298, 304, 319, 321, 323),  # perf_event_open open_by_handle_at memfd_create bpf userfaultfd
    ),
    "aarch64": (
        *(194, 190, 186, 180),
        *(117, 270, 271),
        *(41, 51, 40, 39, 97, 268),
        *(105, 273, 104, 294),
        *(217, 218, 219),
        *(241, 265, 279, 280, 282),
    ),
}
"""By architecture, in the same order."""
_DENIED_EVERYWHERE = (425, 428, 429, 430, 431, 432, 442, 447)
"""io_uring_setup open_tree move_mount fsopen fsconfig fsmount mount_setattr memfd_secret"""
_SOCKET = {"x86_64": 41, "aarch64": 198}
_AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
_X32 = 0x4000_0000
"""Calls of x86-64's second numbering begin here."""

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF_0000, 0x8000_0000, 0x0005_0000 | errno.EPERM
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def filter_system_calls() -> None:
    """Refuse them with EPERM from now on, for this process and all that it starts.

    Raises:
        OSError: the kernel or the processor's architecture knows no such filter.
    """
    machine = os.uname().machine
    if machine not in _DENIED or sys.byteorder != "little":
        raise OSError(errno.ENOTSUP, f"no filter of system calls is known for {machine}")
    denied = (*_DENIED[machine], *_DENIED_EVERYWHERE)
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    # A jump counts the instructions that it skips: those denied go to the last but one, the families to the last.
    program: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, len(denied) + len(families) + 3, 0, _X32),
        *((_EQUAL, len(denied) - place + len(families) + 2, 0, number) for place, number in enumerate(denied)),
        (_EQUAL, 1, 0, _SOCKET[machine]),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        *((_EQUAL, len(families) - place, 0, family) for place, family in enumerate(families)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    instructions = (_Instruction * len(program))(*program)
    whole = _Program(len(program), instructions)
    control(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(whole))
