"""The book of choices: kept, merged, and never trusted blindly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leptonc.runtime.choices import FORMAT, Book, Measured, book, parse

FAST = Measured("a", {"a": 1e-3, "b": 2e-3})


def only_file(root: Path) -> Path:
    (path,) = (root / "choices").iterdir()
    return path


def test_what_was_measured_outlives_the_process(tmp_path: Path) -> None:
    Book(tmp_path, "m").settle({"q": FAST})
    assert Book(tmp_path, "m").get("q") == FAST
    assert Book(tmp_path, "another machine").get("q") is None
    assert only_file(tmp_path).stat().st_mode & 0o077 == 0


def test_what_was_not_measured_lives_in_this_process_only(tmp_path: Path) -> None:
    first = Book(tmp_path, "m")
    first.settle({"q": Measured("a", {})})
    assert first.get("q") == Measured("a", {})
    first.settle({"r": FAST})
    assert Book(tmp_path, "m").get("q") is None and Book(tmp_path, "m").get("r") == FAST


def test_a_decision_does_not_change_within_a_process(tmp_path: Path) -> None:
    made = Book(tmp_path, "m")
    made.settle({"q": Measured("a", {})})
    made.settle({"q": Measured("b", {"b": 1.0})})
    assert made.get("q") == Measured("a", {})


def test_processes_that_write_in_turns_lose_nothing(tmp_path: Path) -> None:
    one, other = Book(tmp_path, "m"), Book(tmp_path, "m")
    one.settle({"q": FAST})
    other.settle({"r": FAST})
    third = Book(tmp_path, "m")
    assert third.get("q") == third.get("r") == FAST


def test_nothing_is_written_without_a_root() -> None:
    made = Book(None, "m")
    made.settle({"q": FAST})
    assert made.get("q") == FAST
    assert book(None, "some machine") is book(None, "some machine")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "1e999", '{"format": 1}', '{"format": 1, "choices": []}',
     '{"format": 2, "choices": {}}', '{"format": 1, "choices": {"q": {"chosen": "a"}}}',
     "[" * 100_000, "\udcff"],
)  # fmt: skip
def test_a_damaged_file_counts_as_empty_and_is_replaced(tmp_path: Path, content: str) -> None:
    Book(tmp_path, "m").settle({"q": FAST})
    only_file(tmp_path).write_bytes(content.encode(errors="surrogateescape"))
    made = Book(tmp_path, "m")
    assert made.get("q") is None
    made.settle({"r": FAST})
    assert Book(tmp_path, "m").get("r") == FAST


@pytest.mark.parametrize(
    "row",
    [{"chosen": "c", "times": {"a": 1.0}}, {"chosen": ["a"], "times": {"a": 1.0}},
     {"chosen": "a", "times": {"a": -1.0}}, {"chosen": "a", "times": {"a": float("nan")}},
     {"chosen": "a", "times": {"a": True}}, {"chosen": "a", "times": {"a": "1"}},
     {"chosen": "a", "times": {}}, {"times": {"a": 1.0}}, 3],
)  # fmt: skip
def test_rows_of_another_form_are_refused(row: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        parse({"format": FORMAT, "choices": {"q": row}})


def test_an_unwritable_place_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "choices").write_text("a file where a directory should be")
    made = Book(tmp_path, "m")
    made.settle({"q": FAST})
    assert made.get("q") == FAST


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    Book(tmp_path, "m").settle({"q": FAST})
    assert json.loads(only_file(tmp_path).read_text())["choices"]["q"]["chosen"] == "a"
