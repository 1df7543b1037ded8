"""What nobody in a jail may ask of the kernel, whatever their rights.

Inside of namespaces of their own, users may mount a folder in memory; some calls hold memory that belongs to no process,
so that no limit counts it; and keys that a call leaves with the kernel outlast a jail.  The list forbids these, as a
program in the kernel's own filter language.  It is sent into the jail as text, like ``inmate``.

Source: the kernel's documentation of seccomp; numbers of calls from its tables for each processor.
"""

import ctypes
import errno
import platform
import struct

CALLS = {
    # name: number on x86_64, on aarch64
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
PROCESSORS = {"x86_64": (0, 0xC000003E, 56, 317), "aarch64": (1, 0xC00000B7, 220, 277)}
"""Column above, name for the filter, numbers of ``clone`` and of ``seccomp``."""
CLONE3 = 435
NEW_NAMESPACES = 0x7E020080
"""Flags of ``clone``."""
LOAD, EQUAL, AT_LEAST, ANY_OF, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, PROCESSOR, FIRST_ARGUMENT = 0, 4, 16
"""Where a call has these."""


def program(processor: str) -> list[tuple[int, int, int, int]]:
    """The filter: operation, lines to skip if it holds, lines to skip if not, operand.

    Raises:
        OSError: for a processor whose calls are not known here.
    """
    if processor not in PROCESSORS:
        raise OSError(f"the filter of calls knows {', '.join(PROCESSORS)}, got {processor}")
    column, name, clone, _ = PROCESSORS[processor]
    # Calls of another kind of programs have other numbers, so those end here.
    lines = [(LOAD, 0, 0, PROCESSOR), (EQUAL, 1, 0, name), (RETURN, 0, 0, KILL)]
    lines += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, 1 << 30), (RETURN, 0, 0, KILL)]
    for numbers in CALLS.values():
        lines += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    # Libraries take "there is none" for an old kernel, and use the older call, whose flags can be seen.
    lines += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, REFUSE | errno.ENOSYS)]
    lines += [(EQUAL, 0, 3, clone), (LOAD, 0, 0, FIRST_ARGUMENT), (ANY_OF, 0, 1, NEW_NAMESPACES)]
    lines += [(RETURN, 0, 0, REFUSE | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    return lines


def forbid() -> None:
    """For good, for all threads of this process and all that it starts.

    Raises:
        OSError: if the kernel can't, or the processor is not known.
    """
    lines = program(platform.machine())
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter, all_threads = 38, 1, 1
    *_, seccomp = PROCESSORS[platform.machine()]
    if library.prctl(no_new_privileges, 1, 0, 0, 0) or library.syscall(seccomp, set_filter, all_threads, header):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of calls")
