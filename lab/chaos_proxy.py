"""`python -m lab.chaos_proxy --routes FILE --seed N …`: stands between the workers and everything they speak with.

One process with a listening port for each route, and a control port that wants a token, which comes by environment
(LAB_CONTROL_TOKEN). When it serves it prints one line: `{"control_port": N, "ports": {route: N}}`.

    POST /faults    order a `ProxyFault`           DELETE /faults   forget all, bring routes up, let go of what is held
    POST /release   let go of what is held         GET /faults      {ordered, held, met: {"route action": n}, late: [status]}
    POST /down      cut routes: a list of names    DELETE /down     bring them up
"""

import argparse
import asyncio
import hmac
import json
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lab.chaos_proxy_faults import ProxyFault
from lab.chaos_proxy_http import Message, read_request
from lab.chaos_proxy_routes import GONE, ChaosProxy, Route

CONTROL_TOKEN_VARIABLE = "LAB_CONTROL_TOKEN"
_FAULT = TypeAdapter(ProxyFault)
_NAMES = TypeAdapter(list[str])


class _ControlPort:
    """Routes the control port's requests."""

    def __init__(self, proxy: ChaosProxy, token: str) -> None:
        self._proxy = proxy
        self._wanted = f"Bearer {token}".encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            request = await read_request(reader, writer)
            if request is not None:
                writer.write(self._answer(request))
                await writer.drain()
        except GONE:
            return
        finally:
            writer.close()

    def _answer(self, request: Message) -> bytes:
        given = next((value for name, value in request.headers if name.lower() == "authorization"), "")
        if not hmac.compare_digest(given.encode(), self._wanted):
            return _json("401 Unauthorized", {"error": "the control port needs its token"})
        try:
            answer = self._do(f"{request.method} {request.path}", request.body)
        except ValidationError as error:
            return _json("400 Bad Request", {"error": str(error)})
        return _json("200 OK", answer) if answer is not None else _json("404 Not Found", {"error": "unknown path"})

    def _do(self, what: str, body: bytes) -> dict[str, object] | None:
        proxy = self._proxy
        match what:
            case "POST /faults":
                proxy.faults.order(_FAULT.validate_json(body))
            case "DELETE /faults":
                proxy.faults.clear()
                proxy.bring_up()
                proxy.release()
            case "POST /release":
                proxy.release()
            case "POST /down":
                proxy.take_down(_NAMES.validate_json(body))
            case "DELETE /down":
                proxy.bring_up()
            case "GET /faults":
                return {"ordered": proxy.faults.ordered, "held": proxy.held, "met": dict(proxy.met), "late": proxy.late}
            case _:
                return None
        return {}


def _json(status: str, answer: dict[str, object]) -> bytes:
    message = Message(f"HTTP/1.1 {status}", (("Content-Type", "application/json"), ("Connection", "close")), b"")
    return message.with_body(json.dumps(answer).encode()).encode()


def _contexts(certificate: Path, key: Path, ca: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_2
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=ca)
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    return server, client


async def _serve(options: argparse.Namespace, announce: Callable[[str], object]) -> None:
    routes = TypeAdapter(tuple[Route, ...]).validate_json(options.routes.read_bytes())
    proxy = ChaosProxy(options.seed, *_contexts(options.certificate, options.key, options.ca))
    ports = {route.name: await proxy.listen(route) for route in routes}
    port = _ControlPort(proxy, os.environ[CONTROL_TOKEN_VARIABLE])
    server = await asyncio.start_server(port.serve, "127.0.0.1", 0)
    control_port = int(server.sockets[0].getsockname()[1])
    announce(json.dumps({"control_port": control_port, "ports": ports}) + "\n")
    await asyncio.Event().wait()


def main() -> None:
    """Serve until the process is told to stop."""
    parser = argparse.ArgumentParser(description="The chaos proxy of the lab.")
    for name in ("routes", "certificate", "key", "ca"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)

    def announce(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    asyncio.run(_serve(parser.parse_args(), announce))


if __name__ == "__main__":
    main()
