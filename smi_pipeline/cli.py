"""The command line `smi`: its commands, and the handling of errors: one line and an exit code for each.

What the commands do is in `smi_pipeline.commands`. Neither this module nor those import anything heavy before a
command runs, so that `smi --help` answers at once.
"""

import logging
import sys
from collections.abc import Sequence

import click  # a dependency of dagster anyway

from smi_pipeline.commands.breakers import breakers
from smi_pipeline.commands.doctor import doctor
from smi_pipeline.commands.front import front
from smi_pipeline.commands.history import import_wordpress
from smi_pipeline.commands.jobs import jobs
from smi_pipeline.commands.report import report
from smi_pipeline.commands.running import demo, migrate, up
from smi_pipeline.commands.tasks import tasks
from smi_pipeline.commands.unsold import unsold


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def smi() -> None:
    """Back office of a shop for AI-upscaled images: from the confirmed payment to the delivered file or the refund.

    Settings come from the environment and from .env in the working folder; .env.example explains them.
    """


for command in (demo, up, front, migrate, doctor, jobs, tasks, breakers, unsold, import_wordpress, report):
    smi.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return 0, 2 for wrong usage, 130 when interrupted, 1 for any other error.

    Standard error gets one line for each cause, never a traceback or a secret.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # warnings of libraries are not shown
    logging.captureWarnings(True)
    try:
        code = smi.main(args=arguments, prog_name="smi", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except BrokenPipeError:  # `smi jobs list | head`
        sys.stdout = None  # the interpreter must not flush into it at exit
        return 0
    except (Exception, KeyboardInterrupt) as error:
        from smi_pipeline.commands.errors import exit_code, lines

        for line in lines(error):
            click.echo(f"smi: {line}", err=True)
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
