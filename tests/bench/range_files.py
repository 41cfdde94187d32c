"""A blob service that only reads: answers GET with a Range from one file over HTTPS, the file over and over.

Run as `python -m tests.bench.range_files FILE CERTIFICATE KEY`.
"""

import json
import mmap
import os
import re
import socket
import ssl
import sys
import threading

_RANGE = re.compile(rb"\r\nrange: bytes=([0-9]+)-([0-9]+)\r\n", re.IGNORECASE)


def _serve(connection: ssl.SSLSocket, content: memoryview) -> None:
    """Answer one client's requests until it goes."""
    received = b""
    while True:
        while (end := received.find(b"\r\n\r\n")) < 0:
            part = connection.recv(65536)
            if not part:
                return
            received += part
        found = _RANGE.search(received[: end + 2])
        received = received[end + 4 :]
        if found is None:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            continue
        position, last = int(found[1]), int(found[2])
        connection.sendall(f"HTTP/1.1 206 Partial Content\r\nContent-Length: {last + 1 - position}\r\n\r\n".encode())
        while position <= last:
            start = position % len(content)
            part_end = min(start + last + 1 - position, len(content))
            connection.sendall(content[start:part_end])
            position += part_end - start


def _carry(raw: socket.socket, context: ssl.SSLContext, content: memoryview) -> None:
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw, server_side=True) as connection:
            _serve(connection, content)
    except OSError:
        raw.close()


def main() -> None:
    """Serve until killed."""
    file = os.open(sys.argv[1], os.O_RDONLY)
    content = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    sys.stdout.write(json.dumps({"port": listening.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    while True:
        raw, _ = listening.accept()
        threading.Thread(target=_carry, args=(raw, context, content), daemon=True).start()


if __name__ == "__main__":
    main()
