"""The jail: a Python that sees no network, no files but those of Python itself, and can be killed at any time.

Built by bubblewrap.  Everything is read-only but a temporary folder of its own, in memory and of limited size.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

FOLDER_BYTES = 256 << 20
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/fonts")
FIRST_USER = 200_000
"""Beyond any user of the machine."""


class JailError(RuntimeError):
    """Bubblewrap is missing, or can't build one here."""


def command(without: Iterable[str] = ()) -> list[str]:
    """What starts a Python in a new jail.

    Args:
        without: modules that are not to be found there.

    Raises:
        JailError: without bubblewrap.
    """
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise JailError(
            "bubblewrap is not installed, and without it submissions are not run (on Debian or Ubuntu: apt-get install "
            "bubblewrap)"
        )
    root = os.geteuid() == 0
    # What starts the jail is seen inside, with its environment.
    words = [
        "/usr/bin/env",
        "-i",
        bubblewrap,
        "--die-with-parent",
        "--new-session",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
    ]
    words += ["--unshare-uts", "--unshare-cgroup-try", *([] if root else ["--unshare-user"])]
    words += ["--hostname", "jail", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp"]
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        words += ["--setenv", name, "1"]
    words += ["--setenv", "PYTHONDONTWRITEBYTECODE", "1", "--setenv", "MPLBACKEND", "Agg"]
    words += [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--size",
        str(16 << 20),
        "--tmpfs",
        "/dev/shm",
        "--remount-ro",
        "/dev",
    ]
    words += ["--perms", "1777", "--size", str(FOLDER_BYTES), "--tmpfs", "/tmp"]
    for path in (*SYSTEM, *dict.fromkeys((sys.base_prefix, sys.prefix))):
        for parent in reversed(Path(path).parents[:-1]):
            words += ["--perms", "0755", "--dir", str(parent)]
        words += ["--ro-bind-try", path, path]
    packages = Path(sysconfig.get_path("purelib"))
    for name in without:
        if (packages / name).is_dir():
            words += ["--tmpfs", str(packages / name)]
    words += ["--remount-ro", "/", "--chdir", "/tmp"]
    if root:
        # Limits on processes do not hold for root, and jails at work together should not share one.
        user = str(FIRST_USER + os.getpid())
        words += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        words += ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
    return [*words, sys.executable]


def check() -> None:
    """Build a jail and leave it.

    Raises:
        JailError: if this machine can't.
    """
    *words, _ = command()
    tried = subprocess.run([*words, "/bin/true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise JailError(f"bubblewrap can't build a jail on this machine: {tried.stderr.strip() or tried.returncode}")


def specification(without: Iterable[str]) -> str:
    """The same for `execnet`."""
    return f"popen//python={shlex.join(command(without))}"
