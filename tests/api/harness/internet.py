"""The internet of the network tests: servers on this host's loopback that sandboxes reach through --map and --zone;
nothing leaves the machine."""

import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest

from conftest import cannot_run

FREE = "ork_network_free"


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, number = self.path.partition("?")
        size = int(number) if path == "/big" else 0
        text = b"" if size else f"page {path} of {self.headers['Host']}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(size or len(text)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)
        while size > 0:
            size -= self.wfile.write(bytes(min(size, 1 << 20)))
        self.close_connection = True

    def log_message(self, *_):
        pass


class Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


class Echo(BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class EchoServer(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def serving(server):
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server.server_address[1]


@pytest.fixture(scope="session")
def certificate(scratch) -> Path:
    """One file: key and certificate for the names that are mapped to the TLS server."""
    if not shutil.which("openssl"):
        cannot_run("openssl is not here: apt-get install openssl")
    path = scratch / "fixture.pem"
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=fixture", "-keyout", path,
         "-out", scratch / "fixture.crt", "-addext", "subjectAltName=DNS:pypi.org,DNS:files.pythonhosted.org"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path.write_text(path.read_text() + (scratch / "fixture.crt").read_text())
    return path


@pytest.fixture(scope="module")
def internet(certificate):
    """Ports of the servers that stand for the world: {"http", "tls", "echo"}; and "lan", on an address of
    this host that is not loopback, or None."""
    http, tls, echo = Http(("127.0.0.1", 0), Pages), Http(("127.0.0.1", 0), Pages), EchoServer(("127.0.0.1", 0), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    tls.socket = context.wrap_socket(tls.socket, server_side=True, do_handshake_on_connect=False)
    servers = [http, tls, echo]
    ports = {"http": serving(http), "tls": serving(tls), "echo": serving(echo), "lan": None}
    if address := own_address():
        lan = Http((address, 0), Pages)
        servers.append(lan)
        ports["lan"] = (address, serving(lan))
    yield ports
    for server in servers:
        server.shutdown()
        server.server_close()


def own_address() -> str | None:
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    private = [a for a in found if a.startswith(("10.", "192.168.", "172.16.", "172.17.", "172.18.", "192.0.2."))]
    return private[0] if private else None


def world(internet) -> list[str]:
    lan = ["--zone", f"lan.test={internet['lan'][0]}", "--allow", "lan.test"] if internet["lan"] else []
    return [
        "--auth", "any", "--api-key", f"{FREE}:free",
        "--map", f"pypi.org:443=127.0.0.1:{internet['tls']}",
        "--map", f"files.pythonhosted.org:443=127.0.0.1:{internet['tls']}",
        "--map", f"deb.debian.org:80=127.0.0.1:{internet['http']}",
        "--map", f"echo.test:7=127.0.0.1:{internet['echo']}", "--allow", "echo.test:7",
        "--map", f"elsewhere.example:80=127.0.0.1:{internet['http']}",
        *lan,
    ]  # fmt: skip
