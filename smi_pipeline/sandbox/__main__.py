"""``python -m smi_pipeline.sandbox``: run the sandbox as a process of its own."""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from dataclasses import MISSING, fields
from pathlib import Path

from smi_pipeline.sandbox.options import SERVICES, Options
from smi_pipeline.sandbox.server import Sandbox

_HELP = {
    "api_format": "API format of replies that belong to no submission; a submission is answered in its own format",
    "rate_minute": "requests to the upscaling API in any rolling minute; 0: no limit",
    "rate_hour": "requests to the upscaling API in any rolling hour; 0: no limit",
    "processing_seconds": "seconds from submission to result",
    "workers": "threads that resize images",
    "min_session_seconds": "shortest accepted lifetime of a Checkout session",
    "webhooks_per_second": "resend old Stripe events up to this rate; 0: never",
    "smtp_user": "user name that the mail server requires (default: no login)",
}


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
    where = sandbox.urls.as_dict()
    if ports_file:
        _write(Path(ports_file), where)
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
        default = option.default
        assert default is not MISSING
        if option.name == "only":
            parser.add_argument(flag, default=",".join(SERVICES), help="comma-separated services to run")
        elif option.name == "api_format":
            parser.add_argument(flag, default=default, choices=("documented", "live"), help=_HELP["api_format"])
        else:
            help_text = _HELP.get(option.name, "default %(default)s")
            parser.add_argument(flag, default=default, type=type(default), help=help_text)
    return parser


def _write(path: Path, content: dict[str, object]) -> None:
    """Write JSON atomically: a process that waits for the file never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as part:
        json.dump(content, part, indent=2)
    Path(part.name).replace(path)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # without waiting for the threads: a webhook to a client that hangs would delay the exit by its whole timeout
    os._exit(code)
