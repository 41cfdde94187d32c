"""One HTTPS POST to a webhook: TLS verified, no redirect followed, nothing of the answer kept but its status."""

import http.client
import ssl
from datetime import timedelta
from urllib.parse import SplitResult, urlsplit

from deltaferry.model.errors import DeltaferryError, ErrorKind

_ANSWER_WITHIN_S = 20.0
_LONGEST_PAUSE_S = 60
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429})


def post(url: str, body: bytes, idempotency_key: str, ca_file: str | None, try_number: int = 1) -> int:
    """POST a JSON body and return the answer's status.

    `ca_file` is what is trusted in place of the machine's own store. Raises INTERRUPTED, which is tried again after a pause
    that doubles with `try_number`, where no answer came, or one that asks for another try; BAD_INPUT for what is no URL;
    BAD_CONFIGURATION where the receiver's certificate is not trusted. No error repeats the URL beyond its host: a path may
    hold a token.
    """
    parts, pause = urlsplit(url), timedelta(seconds=min(2 ** (try_number - 1), _LONGEST_PAUSE_S))
    where = f"The webhook's receiver {parts.netloc}"
    connection = _connection(parts, _context(ca_file))
    try:
        connection.request(
            "POST",
            (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            body,
            {"Content-Type": "application/json", "Idempotency-Key": idempotency_key, "User-Agent": "deltaferry"},
        )
        status = connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION,
            f"{where} shows a certificate that is not trusted ({error.verify_message}): correct it, or name its authority "
            "as ca_file in the table [webhooks] of the settings file.",
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise DeltaferryError(
            ErrorKind.INTERRUPTED, f"{where} did not answer: {type(error).__name__}.", retry_after=pause
        ) from None
    finally:
        connection.close()
    if status >= 500 or status in _WORTH_ANOTHER_TRY:
        raise DeltaferryError(ErrorKind.INTERRUPTED, f"{where} answered {status}.", retry_after=pause)
    return status


def _context(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # an SSLError, of a file that holds no certificates, is one
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION, f"The file {ca_file} of trusted authorities cannot be used: {error.strerror}."
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _connection(parts: SplitResult, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    try:
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=_ANSWER_WITHIN_S, context=context)
    except (ValueError, http.client.InvalidURL):
        raise DeltaferryError(
            ErrorKind.BAD_INPUT, f"The webhook's address {parts.netloc} is none: write https://host/path."
        ) from None
