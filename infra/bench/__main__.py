"""`make bench`: run every benchmark, one after the other. To run one: `python -m infra.bench.NAME --help`."""

import subprocess
import sys
from importlib.resources import files

NOT_BENCHMARKS = {"__init__", "__main__", "workbench"}


def main() -> int:
    """Run all benchmarks and return the highest exit status."""
    names = sorted(
        entry.name.removesuffix(".py") for entry in files("infra.bench").iterdir() if entry.name.endswith(".py")
    )
    status = 0
    for name in names:
        if name in NOT_BENCHMARKS:
            continue
        print(f"\n{name}", flush=True)  # noqa: T201
        status = max(status, subprocess.call([sys.executable, "-m", f"infra.bench.{name}"]))  # noqa: S603
    return status


if __name__ == "__main__":
    sys.exit(main())
