"""A page that tries everything a browser offers to make its visitor's login at Dagster's UI do something."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TAG = "hostile"
"""The tag of runs that the page launches; its value says by which means."""


def mutation(means: str, job_id: str) -> str:
    """Return the mutation that refunds an order."""
    return (
        'mutation { launchRun(executionParams: {selector: {repositoryLocationName: "fulfilment", repositoryName: '
        '"__repository__", jobName: "admin_refund"}, mode: "default", runConfigData: {ops: {admin_refund_action: '
        f'{{config: {{job_id: "{job_id}"}}}}}}}}, executionMetadata: {{tags: [{{key: "{TAG}", value: "{means}"}}]}}}}) '
        "{ __typename } }"
    )


def page(target: str, job_id: str) -> str:
    """Return the page. Its title is "done" when all of it has been tried; it is made anew for each visit."""
    return (
        _PAGE.replace("TARGET", json.dumps(target))
        .replace("SOCKET", json.dumps(target.replace("http", "ws", 1)))
        .replace("TAG", TAG)
        .replace("MUTATION", json.dumps(mutation("MEANS", job_id)))
    )


_PAGE = """<!doctype html><title>trying</title><body><script>
const target = TARGET, socket = SOCKET, said = [];
const mutation = (means) => MUTATION.replace("MEANS", means);
const get = (means, path = "/graphql") => target + path + "?query=" + encodeURIComponent(mutation(means));
const paths = {"": "/graphql", " line break": "/graphql%0a", " slash": "/graphql/", " dots": "/runs/..%2fgraphql"};
const waiting = [];

function add(kind, attributes) {
  const element = Object.assign(document.createElement(kind), attributes);
  waiting.push(new Promise((resolve) => { element.onload = element.onerror = resolve; setTimeout(resolve, 3000); }));
  document.body.append(element);
}
for (const [how, path] of Object.entries(paths)) {
  add("img", {src: get("img" + how, path)});
  add("script", {src: get("script" + how, path)});
  add("link", {rel: "stylesheet", href: get("stylesheet" + how, path)});
  add("link", {rel: "prefetch", href: get("prefetch" + how, path)});
  add("iframe", {src: get("iframe" + how, path)});
  add("object", {data: get("object" + how, path)});
  add("video", {src: get("video" + how, path)});
  add("a", {href: target + "/runs", ping: get("ping" + how, path), target: "ping"});
  window.open(get("window" + how, path));
  const source = new EventSource(get("event source" + how, path), {withCredentials: true});
  setTimeout(() => source.close(), 3000);
}
for (const link of document.querySelectorAll("a")) link.click();

function submit(means, method, enctype, path, fields) {
  const name = "frame " + means;
  add("iframe", {name: name});
  const form = Object.assign(document.createElement("form"), {method: method, enctype: enctype, action: target + path});
  form.target = means.endsWith("window") ? "_blank" : name;
  for (const [key, value] of Object.entries(fields)) {
    form.append(Object.assign(document.createElement("textarea"), {name: key, value: value}));
  }
  document.body.append(form);
  form.submit();
}
const urlencoded = "application/x-www-form-urlencoded", multipart = "multipart/form-data";
for (const where of ["frame", "window"]) {
  for (const [how, path] of Object.entries(paths)) {
    submit("form get" + how + " " + where, "get", urlencoded, path, {query: mutation("form get" + how + " " + where)});
  }
  for (const type of [urlencoded, multipart, "text/plain"]) {
    const means = "form " + type + " " + where;
    const body = JSON.stringify({query: mutation(means), x: "="}).split("=");
    submit(means, "post", type, get(means).slice(target.length), {[body[0]]: body[1]});
  }
}
const report = target + "/report_asset_materialization/TAG";  // takes a POST without a body, whose type it would check
waiting.push(fetch(report, {method: "POST", mode: "no-cors", credentials: "include"}).catch(() => 0));

const types = [urlencoded, multipart, "text/plain", "application/json", "application/graphql"];
for (const mode of ["no-cors", "cors"]) {
  for (const [how, path] of Object.entries(paths)) {
    waiting.push(fetch(get("fetch " + mode + how, path), {mode: mode, credentials: "include"}).catch(() => 0));
  }
  for (const type of types) {
    for (const method of ["POST", "PUT", "GRAPHQL"]) {
      const means = ["fetch", mode, method, type].join(" ");
      const body = type == "application/graphql" ? mutation(means) : JSON.stringify({query: mutation(means)});
      try {
        const headers = {"Content-Type": type};
        const options = {method: method, mode: mode, credentials: "include", body: body, headers: headers};
        waiting.push(fetch(get(means), options).catch(() => 0));
        waiting.push(fetch(get(means), {...options, keepalive: true}).catch(() => 0));
      } catch { }
    }
  }
}
navigator.sendBeacon(get("beacon"), new Blob([JSON.stringify({query: mutation("beacon")})], {type: "text/plain"}));
const asked = new XMLHttpRequest();
asked.open("POST", get("xhr"));
asked.withCredentials = true;
asked.send(JSON.stringify({query: mutation("xhr")}));

waiting.push(new Promise((resolve) => {
  const opened = new WebSocket(socket + "/graphql", "graphql-ws");
  opened.onopen = () => {
    said.push("open");
    opened.send(JSON.stringify({type: "connection_init"}));
    opened.send(JSON.stringify({type: "start", id: "1", payload: {query: mutation("web socket")}}));
  };
  opened.onmessage = (message) => said.push(message.data);
  opened.onclose = resolve;
  setTimeout(resolve, 3000);
}));
Promise.all(waiting).then(() => setTimeout(() => { document.title = "done"; }, 1000));
</script>"""


@contextmanager
def serving(content: str) -> Iterator[int]:
    """Serve this page on every path of a port of loopback, whatever name is asked for; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Referrer-Policy", "unsafe-url")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
