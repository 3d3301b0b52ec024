"""Make .venv and install Imadarem into it, or stop at once where that is done already.

    python3 scripts/bootstrap.py [EXTRA]     EXTRA: dev (everything; the default) or mol

Standard library only: it runs before anything is installed. A stamp in .venv holds what
was installed; it is stale when pyproject.toml, constraints.txt or the Python version change.
constraints.txt has versions and no hashes; SECURITY.md says why.

IMADAREM_TORCH_INDEX  an extra package index to take a CPU build of torch from (empty: none)
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "imadarem-stamp"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

# Extra -> what it costs with a CPU build of torch, on two cores.
COST = {
    "mol": "about 1.2 GB and one to two minutes",
    "dev": "about 2.2 GB and two to five minutes",
}


def main() -> None:
    extra = sys.argv[1] if len(sys.argv) > 1 else "dev"
    if extra not in COST:
        stop(f"unknown extra {extra!r}: choose one of {', '.join(COST)}.")
    refuse_unsupported_machine()
    if is_installed(extra):
        return
    make_venv()
    install(extra)


def refuse_unsupported_machine() -> None:
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] < (3, 15):
        stop(
            f"this is Python {version}; Imadarem needs 3.11 to 3.14 (torch 2.13.0 has no wheel "
            "for others). Name another one: make PYTHON=python3.12"
        )
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        stop("torch 2.13.0 has no wheel for Macs with an Intel processor. Use another machine.")


def is_installed(extra: str) -> bool:
    """Whether the stamp is of this project state and names ``extra`` or all of them."""
    try:
        key, installed = STAMP.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return False
    return PYTHON.exists() and key == project_key() and installed in (extra, "dev")


def project_key() -> str:
    digest = hashlib.sha256(platform.python_version().encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def make_venv() -> None:
    """Create .venv, or create it anew where it is broken or of another Python."""
    if venv_version() == list(sys.version_info[:2]):
        return
    say(f"making .venv with Python {platform.python_version()} ({sys.executable})")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], cwd=ROOT)
    if made.returncode != 0:
        # A half-made folder would pass for a virtual environment next time.
        shutil.rmtree(VENV, ignore_errors=True)
        major, minor = sys.version_info[:2]
        stop(
            "Python could not make a virtual environment. On Debian and Ubuntu the module is a "
            f"package of its own: sudo apt install python{major}.{minor}-venv"
        )


def venv_version() -> list[int] | None:
    """Major and minor version of the Python in .venv; None where it cannot install."""
    show = "import pip, sys; print(*sys.version_info[:2])"
    try:
        shown = subprocess.run([PYTHON, "-c", show], capture_output=True, text=True)
    except OSError:
        return None
    return [int(part) for part in shown.stdout.split()] if shown.returncode == 0 else None


def install(extra: str) -> None:
    index = os.environ.get("IMADAREM_TORCH_INDEX", "")
    say(f"installing imadarem[{extra}] into .venv: {COST[extra]}; torch is the largest part")
    if sys.platform == "linux" and not index:
        say(
            "unless pip finds a CPU build of torch it takes the CUDA build, 5 GB more; "
            "IMADAREM_TORCH_INDEX may name a package index with CPU builds"
        )
    began = time.monotonic()
    command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["-c", "constraints.txt", "-e", f".[{extra}]"]
    # A CPU build, 2.13.0+cpu, is a later version than 2.13.0, so the extra index wins.
    command += ["--extra-index-url", index] if index else []
    STAMP.unlink(missing_ok=True)
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        stop("pip could not install the packages; its message stands above. Run make again.")
    STAMP.write_text(f"{project_key()} {extra}\n", encoding="utf-8")
    say(f"installed in {time.monotonic() - began:.0f} s")


def say(message: str) -> None:
    print(f"bootstrap: {message}", flush=True)


def stop(message: str) -> None:
    sys.exit(f"bootstrap: {message}")


if __name__ == "__main__":
    main()
