"""Make sure that a program is there: find it, or install Debian's, or say what to install.

python tools/programs.py chromium      for the browser tests
python tools/programs.py bubblewrap    for grading homework, and its tests
"""

import os
import shutil
import subprocess
import sys

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ELSEWHERE = {
    "chromium": "install Chromium or Chrome, and name its program: CHROMIUM=/path/to/it make test-browser",
    "bubblewrap": "there is none outside of Linux: use a virtual machine, on Windows WSL 2",
}


def find(package: str) -> str | None:
    """Path of the program: the browser that the variable CHROMIUM names, else the first on the path."""
    if package == "bubblewrap":
        return shutil.which("bwrap")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def install(package: str) -> None:
    """As Debian has it, where that is possible."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not root or not shutil.which("apt-get"):
        return
    print(f"No {package} here: installing Debian's.", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
        if subprocess.run(["apt-get", *command], env=quiet, check=False).returncode:
            return


def main(package: str) -> int:
    if not find(package):
        install(package)
    path = find(package)
    if not path or not shutil.which(path):
        print(
            f"{path} is not a program." if path else f"These tests need {package}.",
            f"Debian, Ubuntu:  sudo apt-get install {package}",
            f"Fedora:          sudo dnf install {package}",
            f"elsewhere:       {ELSEWHERE[package]}",
            sep="\n  ",
            file=sys.stderr,
        )
        return 1
    print(f"Found: {path}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in [[package] for package in ELSEWHERE]:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
