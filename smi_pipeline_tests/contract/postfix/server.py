"""Debian's Postfix on ports of loopback, one for each configuration, and what stands behind it: the next server, a
greylisting policy service and a directory of logins."""

import base64
import os
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from textwrap import dedent

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

POSTFIX = shutil.which("postfix", path="/usr/sbin:/usr/local/sbin") or ""
MISSING = "Postfix is not installed: apt-get install --no-install-recommends postfix, as .ci/run does"

LOGIN = ("käse@shop.example", "pässwörd-€")
REFUSED_SENDER = "refused@shop.example"

CONFIGURATIONS = {
    "plain": "",
    "tls": "-o smtpd_tls_security_level=encrypt",
    "login": """-o smtpd_tls_security_level=encrypt -o smtpd_sasl_auth_enable=yes -o smtpd_sasl_type=dovecot
        -o smtpd_sasl_path=inet:127.0.0.1:{logins}
        -o {{ smtpd_recipient_restrictions = permit_sasl_authenticated, reject }}""",
    "no_smtputf8": "-o smtputf8_enable=no",
    "greylisting": "-o {{ smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:{policy}, permit }}",
    "senders": "-o {{ smtpd_sender_restrictions = check_sender_access texthash:{folder}/senders }}",
    "senders_at_once": """-o smtpd_delay_reject=no
        -o {{ smtpd_sender_restrictions = check_sender_access texthash:{folder}/senders }}""",
    "no_relay": "-o mynetworks=192.0.2.1/32",
}
"""The options of each: how Postfix is set up by people. A sender is refused when the recipient is known, unless
`smtpd_delay_reject=no`."""

_MAIN = """
    compatibility_level = 3.6
    queue_directory = {folder}/queue
    data_directory = {folder}/data
    maillog_file = {folder}/log
    maillog_file_prefixes = {folder}
    myhostname = mail.shop.example
    mydestination =
    mynetworks = 127.0.0.0/8
    inet_interfaces = 127.0.0.1
    inet_protocols = ipv4
    relayhost = [127.0.0.1]:{next_server}
    smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
    smtpd_tls_cert_file = {folder}/certificate.pem
    smtpd_tls_key_file = {folder}/key.pem
    alias_maps =
"""
_SERVICES = """
    pickup    unix       n - n 60 1 pickup
    cleanup   unix       n - n -  0 cleanup
    qmgr      unix       n - n 300 1 qmgr
    tlsmgr    unix       - - n 1000? 1 tlsmgr
    rewrite   unix       - - n -  - trivial-rewrite
    bounce    unix       - - n -  0 bounce
    defer     unix       - - n -  0 bounce
    proxymap  unix       - - n -  - proxymap
    smtp      unix       - - n -  - smtp
    showq     unix       n - n -  - showq
    error     unix       - - n -  - error
    retry     unix       - - n -  - error
    anvil     unix       - - n -  1 anvil
    scache    unix       - - n -  1 scache
    postlog   unix-dgram n - n -  1 postlogd
"""


class NextServer:
    """The server that Postfix hands its mails to: what arrives here has passed Postfix."""

    def __init__(self) -> None:
        self.accepted: list[Envelope] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the mail."""
        self.accepted.append(envelope)
        return "250 OK"

    def mail_to(self, recipient: str, seconds: float = 20) -> Envelope:
        """Wait for a mail to this recipient."""
        ends = time.monotonic() + seconds
        while True:
            for envelope in self.accepted:
                if recipient in envelope.rcpt_tos:
                    return envelope
            assert time.monotonic() < ends, f"Postfix has delivered nothing to {recipient}"
            time.sleep(0.02)


class Postfix:
    """A running Postfix: the port of each configuration, and what it has delivered."""

    def __init__(self, folder: Path, ports: dict[str, int], next_server: NextServer, greylist: "Greylist") -> None:
        self.ports, self.next_server, self.greylist = ports, next_server, greylist
        self.ca_file = folder / "authority.pem"
        self._log = folder / "log"

    @property
    def log(self) -> str:
        """What Postfix has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


class Greylist:
    """A policy service: each pair of sender and recipient is to come again until `pass_all`."""

    def __init__(self) -> None:
        self.passes = False

    def answer(self, attributes: dict[str, str]) -> str:
        """Return the action for one request of Postfix."""
        return "DUNNO" if self.passes else "DEFER_IF_PERMIT Greylisted, see https://greylist.example/why"

    def serve(self, connection: socketserver.StreamRequestHandler) -> None:
        """Answer the requests of one connection."""
        attributes: dict[str, str] = {}
        for line in connection.rfile:
            name, separator, value = line.decode("utf-8", "replace").rstrip("\n").partition("=")
            if separator:
                attributes[name] = value
                continue
            connection.wfile.write(f"action={self.answer(attributes)}\n\n".encode())
            attributes = {}


def check_logins(connection: socketserver.StreamRequestHandler) -> None:
    """Speak Dovecot's protocol of authentication, with `LOGIN` as the only account."""
    hello = "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n"
    connection.wfile.write(hello.encode())
    user, password = (part.encode() for part in LOGIN)
    wanted, given = [user, password], dict[str, list[bytes]]()

    def judge(number: str, found: list[bytes]) -> None:
        right = found == wanted
        connection.wfile.write((f"OK\t{number}\tuser=shop\n" if right else f"FAIL\t{number}\n").encode())

    for line in connection.rfile:
        command, *fields = line.decode().rstrip("\n").split("\t")
        if command == "AUTH":
            number, mechanism, *options = fields
            response = next((option[5:] for option in options if option.startswith("resp=")), None)
            if mechanism == "PLAIN" and response is not None:
                judge(number, base64.b64decode(response).split(b"\0")[1:])
            else:
                given[number] = []
                connection.wfile.write(f"CONT\t{number}\t{base64.b64encode(b'Username:').decode()}\n".encode())
        elif command == "CONT":
            number, response = fields
            given[number].append(base64.b64decode(response))
            if len(given[number]) == 2:
                judge(number, given[number])
            else:
                connection.wfile.write(f"CONT\t{number}\t{base64.b64encode(b'Password:').decode()}\n".encode())


@contextmanager
def running(authority: trustme.CA) -> Iterator[Postfix]:
    """Start Postfix from a folder of its own, which its processes may enter, and stop it."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="smi-postfix-", ignore_cleanup_errors=True))
        )
        folder.chmod(0o755)
        next_server, greylist = NextServer(), Greylist()
        places: dict[str, str | int] = {
            "folder": str(folder),
            "next_server": stack.enter_context(_smtp(next_server)),
            "policy": stack.enter_context(_serving(greylist.serve)),
            "logins": stack.enter_context(_serving(check_logins)),
        }
        ports = {name: _free_port() for name in CONFIGURATIONS}
        _write(folder, places, ports, authority)
        stack.callback(_as_root, "rm", "-rf", str(folder / "queue"), str(folder / "data"))
        _as_root("install", "-d", str(folder / "queue"))
        _as_root("install", "-d", "-o", "postfix", str(folder / "data"))
        postfix = (POSTFIX, "-c", str(folder / "config"))
        _as_root(*postfix, "start", log=folder / "log")
        stack.callback(_as_root, *postfix, "abort")
        yield Postfix(folder, ports, next_server, greylist)


def _write(folder: Path, places: dict[str, str | int], ports: dict[str, int], authority: trustme.CA) -> None:
    authority.cert_pem.write_to_path(folder / "authority.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(folder / "certificate.pem", append=number > 0)
    (folder / "senders").write_text(f"{REFUSED_SENDER} REJECT not owned by user shop\n")
    configuration = folder / "config"
    configuration.mkdir()
    (configuration / "main.cf").write_text(dedent(_MAIN).format(**places))
    services = [dedent(_SERVICES)]
    for name, options in CONFIGURATIONS.items():
        own = " ".join(options.format(**places).split())
        services.append(f"127.0.0.1:{ports[name]} inet n - n - - smtpd {own}\n")
    (configuration / "master.cf").write_text("".join(services))


def _as_root(*command: str, log: Path | None = None) -> None:
    """Run a command that only root may run: Postfix gives each of its processes the account that it needs."""
    sudo = () if os.geteuid() == 0 else ("sudo", "-n")
    ran = subprocess.run([*sudo, *command], capture_output=True, text=True, timeout=60)
    logged = log.read_text() if log and log.exists() else ""
    assert ran.returncode == 0, f"{' '.join(command)}: {ran.stdout}{ran.stderr}{logged}"


@contextmanager
def _smtp(handler: NextServer) -> Iterator[int]:
    port = _free_port()
    controller = Controller(handler, hostname="127.0.0.1", port=port, enable_SMTPUTF8=True)
    controller.start()
    try:
        yield port
    finally:
        controller.stop(no_assert=True)


@contextmanager
def _serving(serve: Callable[[socketserver.StreamRequestHandler], None]) -> Iterator[int]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                serve(self)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
