"""A real HTTPS server that takes what webhooks are told, with a certificate of the test's own authority."""

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.certificates import make_certificates


@dataclass
class Receiver:
    """An HTTPS server that answers with the statuses it was given, then 200; and what it was sent."""

    url: str
    ca_file: str
    statuses: list[int] = field(default_factory=list)
    received: list[tuple[str, dict[str, str], dict[str, object]]] = field(default_factory=list)


@contextmanager
def receiving_webhooks(directory: Path) -> Iterator[Receiver]:
    """Serve until the context ends."""
    made = make_certificates(directory)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.received.append((self.path, dict(self.headers), body))
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate_file, made.key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver = Receiver(f"https://127.0.0.1:{server.server_port}", str(made.ca_file))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
