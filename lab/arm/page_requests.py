"""What the requests of the data plane have in common: refusals in the Blob service's form, and ranges."""

import re
from xml.sax.saxutils import escape

from lab.arm.calls import Call, Reply

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class PageRefused(Exception):
    """A request that is refused; carries the reply."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.reply = Reply(
            status,
            f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>'.encode(),
            {"Content-Type": "application/xml", "x-ms-error-code": code},
        )


def requested_range(call: Call, blob_bytes: int, *, needed: bool) -> tuple[int, int]:
    """Return start and end of the range that a request names; all of the blob if it names none. Raises PageRefused."""
    text = call.headers.get("x-ms-range") or call.headers.get("range")
    if text is None:
        if needed:
            raise PageRefused(400, "MissingRequiredHeader", "An HTTP header that's mandatory for this request is not specified.")
        return 0, blob_bytes
    match = _RANGE.fullmatch(text)
    if match is None or (needed and not match[2]):
        raise PageRefused(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.")
    end = int(match[2]) + 1 if match[2] else blob_bytes
    if end <= int(match[1]):
        raise PageRefused(416, "InvalidRange", "The range specified is invalid.")
    return int(match[1]), end
