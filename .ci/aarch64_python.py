"""An aarch64 Python for QEMU to run: `aarch64_python.py system FOLDER`, then `... site FOLDER`.

FOLDER/system gets Debian's python3 for arm64 (and the C++ library), unpacked, not installed: an apt
with a state of its own fetches it, so this machine's packages stay as they are.  FOLDER/site gets
NumPy from PyPI.  Needs Debian's apt-get and dpkg-deb, and its archive's keyring.
DEBIAN_MIRROR names another mirror; what /etc/apt says is not read.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = ("python3", "libstdc++6")
WHEELS = ("numpy",)
# What a wheel for the C library of Debian 12 may be called.
TAGS = [f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)]
APT_CONFIG = """\
Dir::Etc "{apt}/etc";
Dir::State "{apt}/state";
Dir::State::status "{apt}/state/status";
Dir::Cache "{apt}/cache";
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "root";
Acquire::http::Timeout "20";
"""


def configure(apt: Path) -> dict[str, str]:
    """Lays out a state of apt in which nothing is installed; the environment that names it."""
    for name in (
        "etc/apt.conf.d",
        "etc/preferences.d",
        "state/lists/partial",
        "cache/archives/partial",
    ):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "state/status").touch()
    mirror = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    source = f"deb [signed-by={KEYRING}] {mirror} {suite} main\n"
    (apt / "etc/sources.list").write_text(source, encoding="utf-8")
    (apt / "apt.conf").write_text(APT_CONFIG.format(apt=apt), encoding="utf-8")
    return {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}


def unpack(folder: Path) -> None:
    """Debian's packages into FOLDER/system; SystemExit if they cannot be had."""
    apt = folder / "apt"
    get, unpacker = shutil.which("apt-get"), shutil.which("dpkg-deb")
    is_debian = platform.freedesktop_os_release().get("ID") == "debian"
    if not is_debian or get is None or unpacker is None or not Path(KEYRING).is_file():
        raise SystemExit(
            f"an emulated Python for arm64 needs Debian, its apt-get and dpkg-deb, and {KEYRING}"
        )
    for old in (folder / "system", apt):  # packages of another day
        shutil.rmtree(old, ignore_errors=True)
    environment = configure(apt)
    install = [get, "install", "-qqy", "--download-only", "--no-install-recommends"]
    for command in ([get, "update", "-qq"], [*install, *PACKAGES]):
        done = subprocess.run(command, check=False, env=environment, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(
                "Debian's python3 for arm64 could not be fetched (apt's errors are above)"
            )
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        subprocess.run([unpacker, "-x", str(package), str(folder / "system")], check=True)
    shutil.rmtree(apt)  # 170 MB


def install_wheels(folder: Path) -> None:
    """Wheels into FOLDER/site, for the Python in FOLDER/system."""
    version = (folder / "system/usr/bin/python3").readlink().name.removeprefix("python")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"]
    command += ["--target", str(folder / "site"), "--only-binary=:all:"]
    command += ["--python-version", version, *(f"--platform={tag}" for tag in TAGS)]
    subprocess.run([*command, *WHEELS], check=True)


if __name__ == "__main__":
    part, folder = sys.argv[1:]
    {"system": unpack, "site": install_wheels}[part](Path(folder).resolve())
