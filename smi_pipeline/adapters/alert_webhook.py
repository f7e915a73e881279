"""Post alerts to a chat or paging system by URL (`SMI_ALERT_WEBHOOK_URL`)."""

from collections.abc import Callable

import requests

from smi_pipeline.core.errors import TransientError


def alert_webhook(url: str, *, timeout_seconds: float = 10) -> Callable[[str, list[str]], None]:
    """Return a function that posts `{"text": …}`, as Slack, Mattermost and others expect. It raises TransientError."""

    def post(subject: str, lines: list[str]) -> None:
        try:
            answer = requests.post(url, json={"text": "\n".join([subject, *lines])}, timeout=timeout_seconds)
            answer.raise_for_status()
        except requests.RequestException as error:
            raise TransientError(f"{type(error).__name__}") from error  # its text may contain the secret URL

    return post
