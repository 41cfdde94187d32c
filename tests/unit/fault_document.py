"""Writes docs/faults.md from the fault tables: `python -m tests.unit.fault_document`."""

from collections.abc import Iterable
from pathlib import Path

from deltaferry.azure.fault_table import ARM_FAULTS, BEING_DELETED, IDENTITY_FAULTS, VAULT_FAULTS, During, ServiceFault
from deltaferry.model.faults import FaultClass, FaultRow
from deltaferry.model.store_faults import STORE_FAULTS, StoreFault
from deltaferry.vsphere.call_faults import CHANGED_AREAS_RULES, CONSOLIDATION_RULES, QUIESCE_RULES, SNAPSHOT_RULES
from deltaferry.vsphere.fault_rule import FaultRule
from deltaferry.vsphere.fault_table import GENERAL_RULES
from deltaferry.vsphere.reading_faults import NOT_TOLD_APART, READING_FAULTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"

CLASSES = {
    FaultClass.RETRY: "The step is tried again, after the catalogue's or the server's pause. However long it lasts, it leads to no resync.",
    FaultClass.RE_LOGIN: "A new session, token or signature is made, and the call or the step is tried again with it.",
    FaultClass.RE_READ_HOST: "The step is tried again after reading anew which ESXi host runs the VM.",
    FaultClass.REPAIR: "The cycle fails; the next one starts from the last committed change ids and repairs it. The second in a row leads to a resync.",
    FaultClass.RESYNC: "No delta can mend it: the replication is marked for resync at once.",
    FaultClass.RESET_CBT: "As resync, after change block tracking was reset.",
    FaultClass.FALL_BACK: "The step goes on in a way that does not need what is missing: the whole disk is read; the snapshot is crash-consistent.",
    FaultClass.SETTLED: "What was asked for is so already: the call, or the next attempt, succeeds.",
    FaultClass.OPERATOR: "Somebody must act. Until then the step waits with pauses of 20 s or more, or the cycle fails and the next one tries again.",
}

OPENING = """# Faults

What vSphere and Azure are known to answer, and what Deltaferry does about it by itself. The adapters translate by these
tables (`deltaferry/vsphere/fault_table.py` and `call_faults.py`, `deltaferry/model/store_faults.py`,
`deltaferry/azure/fault_table.py`), and this document is made from them; a fault is told by its type, its keys, its code or
its status, and never by text. Each row's name is that of a fault of the lab: `ask_named` of the lab's vCenter and of its
Azure Resource Manager, `lab/blob_faults.py` for storage accounts, `lab/key_vault.py` for Key Vault and the identity. Tests
provoke each one by its name, through the real clients. Kinds are those of the
[operator's guide](operators-guide.md#health-errors).

## Classes

| class | what happens |
|---|---|
"""


def table(header: str, rows: Iterable[tuple[str, ...]]) -> str:
    columns = header.count("|") - 1
    lines = [header, "|" + "---|" * columns, *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) + "\n"


def shown(row: FaultRow) -> tuple[str, ...]:
    return (row.meaning, row.answer.value, f"`{row.kind.value}`" if row.kind else "none", row.advice)


def vsphere_name(row: FaultRule) -> str:
    name = str(getattr(row.fault, "_wsdlName", row.fault.__name__))
    notes = [*(f"`{key}`" for key in sorted(row.keys)), *(f"`{name}`" for name in sorted(row.properties))]
    if row.names is not None:
        notes.append(f"of a {row.names._wsdlName}")
    if row.when:
        notes.append(row.when)
    return f"`{name}`" + (f" ({', '.join(notes)})" if notes else "")


def vsphere(rows: Iterable[FaultRule]) -> str:
    return table(
        "| name | fault | met by | meaning | class | kind | remedy |",
        ((f"`{row.name}`", vsphere_name(row), f"`{row.method}`" if row.method else "any call", *shown(row)) for row in rows),
    )


def told_by(row: StoreFault | ServiceFault) -> str:
    parts = [f"`{code}`" for code in row.codes]
    if row.statuses:
        parts.append(f"HTTP {', '.join(map(str, row.statuses))}")
    if isinstance(row, ServiceFault) and row.during is not During.ANY:
        parts.append(f"at the {row.during.value}")
    return ", ".join(parts) or "the exception's type"


def azure(rows: Iterable[StoreFault | ServiceFault]) -> str:
    header = "| name | told by | meaning | class | kind | remedy |"
    return table(header, ((f"`{row.name}`", told_by(row), *shown(row)) for row in rows))


def document() -> str:
    """Return the document."""
    reading = table(
        "| name | known by | meaning | class | kind | remedy |",
        ((f"`{row.name}`", row.known_by, *shown(row)) for row in READING_FAULTS),
    )
    return "\n".join(
        (
            OPENING + "\n".join(f"| {name.value} | {text} |" for name, text in CLASSES.items()) + "\n",
            "## vSphere: any call\n",
            "Rows are read from top to bottom, those of a call before these.\n",
            vsphere(GENERAL_RULES),
            "## vSphere: asking for changed areas\n",
            vsphere(CHANGED_AREAS_RULES),
            "## vSphere: taking a snapshot\n",
            vsphere(SNAPSHOT_RULES),
            "## vSphere: quiescing the guest for a snapshot\n",
            "Rows of taking a snapshot stand behind these, and are answered in the same way: a crash-consistent snapshot is taken.\n",
            vsphere(QUIESCE_RULES),
            "## vSphere: consolidating\n",
            vsphere(CONSOLIDATION_RULES),
            "## Reading disks\n",
            reading,
            "nbdkit reports VDDK's errors as a sentence in its log, without their number, and to its client as EIO. These are",
            "therefore not told apart; the step is tried again, in a new VDDK session with the VM's present host, and what nbdkit",
            "wrote before it ended stands in the error's message:\n",
            table("| VDDK error | meaning |", NOT_TOLD_APART),
            "## Storage accounts\n",
            azure((*STORE_FAULTS, BEING_DELETED)),
            "## Azure Resource Manager\n",
            azure(ARM_FAULTS),
            "## Key Vault\n",
            azure(VAULT_FAULTS),
            "## The worker's identity\n",
            "azure-identity gives the AADSTS number in its text alone, so that a wrong secret, an expired one and an unknown",
            "application are one row.\n",
            azure(IDENTITY_FAULTS),
        )
    )


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
