"""Serve the gateway on SMI_GATEWAY_PORT: `python -m smi_pipeline.gateway [--host HOST]`."""

import argparse
import sys
from contextlib import suppress

import uvicorn
from pydantic import ValidationError

from smi_pipeline.core.errors import SmiError
from smi_pipeline.gateway import logs
from smi_pipeline.gateway.server import build_app, server_config
from smi_pipeline.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Return 1 when the configuration does not allow it."""
    parser = argparse.ArgumentParser(prog="python -m smi_pipeline.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    host = parser.parse_args(arguments).host
    try:
        settings = Settings()
        app = build_app(settings)
    except ValidationError as error:
        first = error.errors()[0]
        print(f"{'.'.join(map(str, first['loc'])).upper()}: {first['msg']}", file=sys.stderr)  # noqa: T201
        return 1
    except SmiError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    logs.configure()
    proxies = settings.smi_trusted_proxies
    server = uvicorn.Server(server_config(app, host=host, port=settings.smi_gateway_port, proxies=proxies))
    with suppress(KeyboardInterrupt):  # uvicorn has shut down by then
        server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
