"""Posts alerts to a chat or paging system by URL (`SMI_ALERT_WEBHOOK_URL`)."""

from collections.abc import Callable

import requests

from smi_pipeline.core.errors import TransientError


def alert_webhook(url: str, *, timeout_seconds: float = 10) -> Callable[[str, list[str]], None]:
    """A function that posts `{"text": …}`, the form Slack, Mattermost and others take. It raises TransientError."""

    def post(subject: str, lines: list[str]) -> None:
        try:
            answer = requests.post(url, json={"text": "\n".join([subject, *lines])}, timeout=timeout_seconds)
            answer.raise_for_status()
        except requests.RequestException as error:
            raise TransientError(f"{type(error).__name__}") from error  # its text may hold the URL, a secret

    return post
