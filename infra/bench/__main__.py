"""`make bench`: every benchmark, one after the other. Each also runs alone: `python -m infra.bench.NAME --help`."""

import subprocess
import sys
from importlib.resources import files

NOT_BENCHMARKS = {"__init__", "__main__", "workbench"}


def main() -> int:
    """Run them all; the worst of their exit statuses."""
    names = sorted(
        entry.name.removesuffix(".py") for entry in files("infra.bench").iterdir() if entry.name.endswith(".py")
    )
    worst = 0
    for name in names:
        if name in NOT_BENCHMARKS:
            continue
        print(f"\n{name}", flush=True)  # noqa: T201
        worst = max(worst, subprocess.call([sys.executable, "-m", f"infra.bench.{name}"]))  # noqa: S603
    return worst


if __name__ == "__main__":
    sys.exit(main())
