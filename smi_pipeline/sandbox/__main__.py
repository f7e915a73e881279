"""``python -m smi_pipeline.sandbox``: run the sandbox as a process of its own."""

import argparse
import json
import os
import signal
import sys
import threading
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from smi_pipeline.sandbox import files
from smi_pipeline.sandbox.options import SERVICES, Options
from smi_pipeline.sandbox.server import Sandbox
from smi_pipeline.sandbox.upsampler.api_format import ApiFormat


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    state, ports_file = given.pop("state"), given.pop("ports_file")
    try:
        given["only"] = tuple(given["only"].split(","))
        sandbox = Sandbox(state, **given)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        sandbox.start()
    except (OSError, ValueError, TimeoutError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 1
    where = asdict(sandbox.urls)
    if ports_file:
        files.write(Path(ports_file), json.dumps(where, indent=2).encode())
    for name, place in where.items():
        if place:
            sys.stdout.write(f"{name:14} {place}\n")
    sys.stdout.flush()
    stop.wait()
    sandbox.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m smi_pipeline.sandbox", description=__doc__)
    parser.add_argument("--state", required=True, help="folder for the state, which survives restarts")
    parser.add_argument("--ports-file", help="JSON file to write with all addresses, once every port is open")
    for option in fields(Options):
        flag = "--" + option.name.replace("_", "-")
        default: Any = option.default
        if option.name == "only":
            parser.add_argument(flag, default=",".join(SERVICES), help="comma-separated services to run")
        else:
            words = option.metadata.get("help", "default %(default)s")
            choices = get_args(ApiFormat) if option.type is ApiFormat else None
            parser.add_argument(flag, default=default, type=type(default), choices=choices, help=words)
    return parser


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # without waiting for the threads: a webhook to a client that hangs would delay the exit by its whole timeout
    os._exit(code)
