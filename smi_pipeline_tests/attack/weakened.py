"""Configurations of the front that lack a rule, to see that a test misses it."""

import re
from collections.abc import Callable


def without(*lines: str, instead: str = "") -> Callable[[str], str]:
    """Return what takes these lines out of a configuration, wherever they stand."""

    def change(text: str) -> str:
        for line in lines:
            assert line in text
            text = text.replace(line, instead)
        return text

    return change


def blocking_by_name(text: str) -> str:
    """Return the configuration as it once was: each path open but for the names of what is closed."""
    text = without("if ($smi_ambiguous)", instead='if ($smi_kind = "")')(text)
    closed = r"location / \{\n +return 404;\n +\}(?=.*?(proxy_pass [^;]+;))"
    text, opened = re.subn(closed, r"location / { \1 }", text, flags=re.DOTALL)
    assert opened == 2
    own = "location ~ ^/(?:smi/v1/|smi-webhook/|static/|(?:ops|health)\\z|ops/) {"
    text = without("location / {\n            set", instead="location = /nowhere {\n            set")(text)
    return without(own, instead="location = /metrics { return 404; }\n        location / {")(text)


_LAST_OF_THE_MAP = "default 1;\n    }\n\n    server {  # Dagster"
for_any_page = without(_LAST_OF_THE_MAP, instead=_LAST_OF_THE_MAP.replace("1", '""'))
"""Return the configuration without a look at the page that a request comes from."""

RULES = {
    "a path that can be read in two ways": without("if ($smi_ambiguous)", instead='if ($smi_kind = "")'),
    "a foreign Origin": without("default foreign;", instead="default own;"),
    "a write that does not come from the site": without("none same-origin [a", instead="none [a-z-]* [a"),
    "embedded by another site": for_any_page,
    "a header twice, or a login": without("proxy_pass_request_headers off;"),
    "a write by another method than POST": without("(?:write|socket)\\z", instead="(?:write|socket|read)\\z"),
    "no login": without('auth_basic "Dagster', instead='# "'),
    "another host name than the site's": without("Host 127.0.0.1", instead="Host $http_host; #"),
    "an invented client address": without("proxy_set_header X-Forwarded-For $remote_addr;"),
    "metrics for customers": without("smi_nowhere /not-found;", instead="smi_nowhere $request_uri;"),
}
"""What the attack says when a rule is missing, and how it is taken away."""
