"""`smi front`: write the configuration of the nginx in front of the gateway and Dagster's UI."""

from pathlib import Path

import click

from smi_pipeline.commands.cli_support import done, json_option, load_settings

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--certificate", type=_FILE, help="Certificate chain (PEM) of the https sites.")
@click.option("--key", type=_FILE, help="Private key (PEM) of the certificate.")
@json_option
def front(folder: Path, certificate: Path | None, key: Path | None, as_json: bool) -> None:
    """Write nginx.conf and the password files of its sites into FOLDER."""
    from smi_pipeline.stack.nginx import write_front

    files = write_front(load_settings(), folder, certificate=certificate, key=key)
    message = f"wrote {', '.join(map(str, files))}; start it with: nginx -c {files[0]}"
    done(as_json, message, files=[str(path) for path in files])
