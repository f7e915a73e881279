"""Start runs through Dagster's GraphQL API: there is no public Python call that submits a run to an instance."""

import requests

from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.models import Queue
from smi_pipeline.core.runs import DAGSTER_JOB, run_config

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on InvalidSubsetError { message }
    ... on PipelineNotFoundError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""


class GraphQLRuns:
    """Implement `core.ports.RunsPort` against a webserver, `url` without the path."""

    def __init__(self, url: str, *, timeout_seconds: float = 10) -> None:
        self._url = f"{url}/graphql"
        self._timeout = timeout_seconds
        self._session = requests.Session()
        self._session.trust_env = False

    def launch(self, queue: Queue, lease_id: str, size: int) -> str:
        """Start the run of `queue` for a lease of `size` rows; return its id. Raises TransientError."""
        selector = {
            "repositoryLocationName": "fulfilment",
            "repositoryName": "__repository__",
            "jobName": DAGSTER_JOB[queue],
        }
        tags = {"smi/leased": str(size), "smi/kick": "true"}
        params = {
            "selector": selector,
            "runConfigData": run_config(queue, lease_id),
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        try:
            answer = self._session.post(
                self._url, json={"query": _LAUNCH, "variables": {"params": params}}, timeout=self._timeout
            ).json()
            launched = answer["data"]["launchRun"]
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise TransientError(f"the Dagster webserver gave no usable answer ({type(error).__name__})") from error
        if launched["__typename"] != "LaunchRunSuccess":
            raise TransientError(f"Dagster did not start the run: {launched.get('message') or launched['__typename']}")
        return str(launched["run"]["runId"])
