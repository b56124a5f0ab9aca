"""``python -m infra.simulator``: the simulator as a server of its own, every knob a flag."""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError

from infra.simulator.knobs import Knobs
from infra.simulator.serving import listen, server


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM.

    Returns:
        The exit status: 0 stopped, 1 the address cannot be had, 2 a knob has no such value.
    """
    given = vars(_parser().parse_args(argv))
    host, port = given.pop("host"), given.pop("port")
    try:
        knobs = Knobs.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for fault in error.errors():
            sys.stderr.write(f"simulator: {'.'.join(map(str, fault['loc']))}: {fault['msg']}\n")
        return 2
    try:
        listener = listen(host, port)
    except OSError as error:
        sys.stderr.write(f"simulator: cannot listen on {host}:{port}: {error.strerror or error}\n")
        return 1
    sys.stdout.write(f"simulator ready on http://{host}:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    server(knobs).run(sockets=[listener])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.simulator", description="A simulated image-edit endpoint.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100, help="0 takes a free one (default: 9100)")
    for name, knob in Knobs.model_fields.items():
        flag = "--" + name.replace("_", "-")
        words = f"{knob.description} (default: {knob.default})"
        if knob.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=words)
        else:
            parser.add_argument(flag, default=None, help=words)
    return parser


if __name__ == "__main__":
    sys.exit(main())
