"""``python -m infra.simulator``: the simulator as a separate server; every knob is a flag."""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError

from infra.simulator.knobs import Knobs
from infra.simulator.serving import listen, server


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM.

    Returns:
        The exit status: 0 stopped, 1 the address is not available, 2 a knob has an invalid value.
    """
    arguments = vars(_parser().parse_args(argv))
    host, port = arguments.pop("host"), arguments.pop("port")
    try:
        knobs = Knobs.model_validate({name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        for detail in error.errors():
            sys.stderr.write(f"simulator: {'.'.join(map(str, detail['loc']))}: {detail['msg']}\n")
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
    parser.add_argument("--port", type=int, default=9100, help="0 selects a free port (default: 9100)")
    for name, knob in Knobs.model_fields.items():
        flag = "--" + name.replace("_", "-")
        help_text = f"{knob.description} (default: {knob.default})"
        if knob.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help_text)
        else:
            parser.add_argument(flag, default=None, help=help_text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
