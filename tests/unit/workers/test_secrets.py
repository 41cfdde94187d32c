from pathlib import Path

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from workers.secrets import SecretRef


def test_a_secret_is_read_anew_at_each_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    from_file, from_variable = SecretRef(f"file:{file}"), SecretRef("env:DF_TEST_PASSWORD")
    for secret in ("first", "second"):
        file.write_text(f"{secret}\n")
        monkeypatch.setenv("DF_TEST_PASSWORD", secret)
        assert from_file.read() == secret
        assert from_variable.read() == secret


def test_its_repr_shows_the_reference_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DF_TEST_PASSWORD", "hunter2")
    reference = SecretRef("env:DF_TEST_PASSWORD")
    reference.read()
    assert repr(reference) == str(reference) == "SecretRef('env:DF_TEST_PASSWORD')"


@pytest.mark.parametrize("literal", ["hunter2", "env:", "env:a b", "env:hunter2!", "file:hunter2", "", "ENV:X", "env:1"])
def test_a_literal_is_refused_without_being_repeated(literal: str) -> None:
    with pytest.raises(DeltaferryError) as caught:
        SecretRef(literal)
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION
    assert "hunter2" not in str(caught.value)


def test_a_missing_secret_names_its_reference(tmp_path: Path) -> None:
    with pytest.raises(
        DeltaferryError, match="env:DF_TEST_ABSENT cannot be read: the environment variable DF_TEST_ABSENT is not set"
    ):
        SecretRef("env:DF_TEST_ABSENT").read({})
    with pytest.raises(DeltaferryError, match="absent cannot be read: No such file"):
        SecretRef(f"file:{tmp_path}/absent").read()


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 70_000])
def test_an_empty_binary_or_huge_file_is_no_secret(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(DeltaferryError, match="cannot be read"):
        SecretRef(f"file:{file}").read()
