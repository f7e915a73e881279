"""``python -m smi_pipeline.sandbox``: the stand-ins as a process of their own."""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from dataclasses import MISSING, fields
from pathlib import Path

from smi_pipeline.sandbox.options import STAND_INS, Options
from smi_pipeline.sandbox.server import Sandbox

_HELP = {
    "api_format": "API format of replies that belong to no submission; submissions are recognised by their shape",
    "rate_minute": "requests to the upscaling API in any rolling minute, 0 lifts the limit",
    "rate_hour": "the same in any rolling hour",
    "processing_seconds": "from submission to result",
    "workers": "threads that resize",
    "min_session_seconds": "shortest life of a Checkout session that is accepted",
    "webhooks_per_second": "old Stripe events are sent again until there are so many webhooks, 0 does not",
    "smtp_user": "user name that the mail server demands (default: none)",
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
    parser.add_argument("--state", required=True, help="folder that keeps everything across restarts")
    parser.add_argument("--ports-file", help="JSON file with all addresses, written when everything listens")
    for option in fields(Options):
        flag = "--" + option.name.replace("_", "-")
        default = option.default
        assert default is not MISSING
        if option.name == "only":
            parser.add_argument(flag, default=",".join(STAND_INS), help="comma-separated stand-ins to run")
        elif option.name == "api_format":
            parser.add_argument(flag, default=default, choices=("documented", "live"), help=_HELP["api_format"])
        else:
            help_text = _HELP.get(option.name, "default %(default)s")
            parser.add_argument(flag, default=default, type=type(default), help=help_text)
    return parser


def _write(path: Path, content: dict[str, object]) -> None:
    """Whole or not at all: whoever waits for the file never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as part:
        json.dump(content, part, indent=2)
    Path(part.name).replace(path)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # a webhook under way to a customer that hangs would hold up the exit of its thread for its whole timeout
    os._exit(code)
