"""docs/faults.md is what the fault tables say."""

from deltaferry.model.faults import FaultClass
from tests.unit.fault_document import CLASSES, DOCUMENT, document


def test_the_document_of_faults_is_made_from_the_tables() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run python -m tests.unit.fault_document"


def test_every_class_is_explained() -> None:
    assert CLASSES.keys() == set(FaultClass)
