"""A site of the front as a program uses it: GraphQL by POST and by WebSocket, with the login and the site's origin."""

import json
from base64 import b64encode
from typing import Any

import requests
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol


class DagsterSite:
    """`url` is its origin, `login` user and password."""

    def __init__(self, url: str, login: tuple[str, str]) -> None:
        self.url = url
        self.login = login
        self._session = requests.Session()  # keeps the cookie that tells who is in
        self._session.auth = login
        self._session.trust_env = False

    def get(self, path: str) -> requests.Response:
        return self._session.get(self.url + path, timeout=20)

    def ask(self, query: str) -> dict[str, Any]:
        """What GraphQL says to it by POST."""
        reply = self._session.post(
            f"{self.url}/graphql", json={"query": query}, headers={"Origin": self.url}, timeout=20
        )
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    def ask_by_socket(self, query: str) -> str:
        """The first word to it through a WebSocket, where Dagster takes subscriptions alone."""
        credentials = b64encode(":".join(self.login).encode()).decode()
        with connect(
            f"{self.url.replace('http', 'ws', 1)}/graphql",
            origin=Origin(self.url),
            subprotocols=[Subprotocol("graphql-ws")],
            additional_headers={"Authorization": f"Basic {credentials}"},
            proxy=None,
        ) as socket:
            socket.send(json.dumps({"type": "connection_init"}))
            assert json.loads(socket.recv(timeout=20))["type"] == "connection_ack"
            socket.send(json.dumps({"type": "start", "id": "1", "payload": {"query": query}}))
            return str(socket.recv(timeout=20))
