"""Tells the operators' webhook what happened to a replication: that its RPO threshold was crossed, and that it recovered."""

import json
from collections.abc import Callable

from temporalio import activity

from activities.failures import translated
from activities.webhook import post
from deltaferry.model.errors import DeltaferryError, ErrorKind
from workflows.messages.notice import RpoNotice


class Notices:
    """Posts events to the webhook of the settings file, where there is one."""

    def __init__(self, url: Callable[[], str] | None, ca_file: str | None = None) -> None:
        """`url` reads the webhook's address, anew for each event: it may hold a token. None: nobody wants to be told."""
        self._url = url
        self._ca_file = ca_file

    @activity.defn
    @translated
    def announce_rpo(self, notice: RpoNotice) -> bool:
        """POST an event; return whether there is a webhook. Every try of one event carries the same `Idempotency-Key`.

        No answer, 429 and 5xx raise INTERRUPTED and are tried again; any other answer but 2xx raises BAD_CONFIGURATION.
        """
        if self._url is None:
            return False
        body = {
            "event": notice.change.value,
            "installation": notice.ref.installation,
            "site": notice.ref.site,
            "vm": notice.vm_name,
            "workflow_id": notice.workflow_id,
            "replication_id": notice.ref.replication_id,
            "at": notice.at.isoformat(),
            "rpo_s": round(notice.rpo.total_seconds(), 3),
            "threshold_s": notice.threshold.total_seconds() if notice.threshold is not None else None,
            "sentence": notice.sentence,
        }
        key = f"{notice.ref.replication_id}/{notice.at.isoformat()}"
        status = post(self._url(), json.dumps(body).encode(), key, self._ca_file, activity.info().attempt)
        if not 200 <= status < 300:
            raise DeltaferryError(
                ErrorKind.BAD_CONFIGURATION,
                f"The webhook for events answered {status}: correct the address that rpo names in the table [webhooks] of the "
                "settings file, or the receiver.",
            )
        return True
