"""What the source wrote after the point that was failed over to, in words: reprotect overwrites it."""

from datetime import datetime

from deltaferry.model.errors import ErrorKind
from deltaferry.model.states import HealthError
from deltaferry.planning.phrases import size_text
from workflows.messages.failback import Losses


class LossesUnconfirmedError(Exception):
    """The source wrote after the point that was failed over to, or it cannot be told, and nobody has confirmed the loss."""

    def __init__(self, losses: Losses) -> None:
        super().__init__("losses to confirm")
        self.losses = losses


def losses_error(losses: Losses, at: datetime) -> HealthError:
    """Return what a person reads of losses that nobody has confirmed."""
    told = []
    for disk in losses.disks:
        if disk.written_bytes is None:
            told.append(f"{disk.label}: {disk.sentence}")
        elif disk.written_bytes:
            told.append(f"{disk.label}: {size_text(disk.written_bytes)} written since the last commit.")
    if losses.given_up_bytes:
        told.append(f"{size_text(losses.given_up_bytes)} of cycles after the chosen recovery point.")
    return HealthError(
        ErrorKind.OPERATION_REFUSED,
        "Reprotect overwrites what the source wrote after the point that was failed over to. " + " ".join(told),
        "The source ran on after the recovery point.",
        "Save what is needed from the VM at the site, then send reprotect with confirm_losses.",
        False,
        at,
    )
