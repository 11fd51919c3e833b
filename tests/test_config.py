"""YAML into models: every mistake at once, with its place."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from dtk.config import did_you_mean, find_mistakes, mistakes_error, read_model, read_yaml, validate_model
from dtk.errors import ArgumentError, NotFoundError


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _rise(self):
        if self.low > self.high:
            raise ValueError("low is above high; swap them")
        return self


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Literal["a", "b"] = "a"
    part: Part = Part()
    parts: list[Part] = []
    by_name: dict[str, int] = {}
    size: Literal["all"] | int = "all"
    tagged: (
        Annotated[
            Annotated[str, Tag("text")] | Annotated[Part, Tag("part")],
            Discriminator(lambda value: "text" if isinstance(value, str) else "part"),
        ]
        | None
    ) = None
    count: int = Field(default=1, ge=1)


def lines(content):
    with pytest.raises(ArgumentError) as caught:
        validate_model(content, Whole, "file.yaml")
    first, *rest = str(caught.value).splitlines()
    assert first == f"file.yaml: {len(rest)} mistake{'s' if len(rest) > 1 else ''}"
    return [line.strip() for line in rest]


def test_every_mistake_at_once():
    assert lines({"kind": "c", "cuont": 3, "count": 0, "part": {"lwo": 1, "high": "x"}}) == [
        "name: is missing",
        "kind='c': should be 'a' or 'b'",
        "part.high='x': should be a valid integer, unable to parse string as an integer",
        "part.lwo: is no known setting; did you mean 'low'?",
        "count=0: should be greater than or equal to 1",
        "cuont: is no known setting; did you mean 'count'?",
    ]


def test_places_in_lists_mappings_and_unions():
    content = {
        "name": "n",
        "parts": [{}, {"low": "x"}],
        "by_name": {"a": 1, "b": "x"},
        "size": "some",
        "tagged": {"hgih": 3},
    }
    assert lines(content) == [
        "parts.1.low='x': should be a valid integer, unable to parse string as an integer",
        "by_name.b='x': should be a valid integer, unable to parse string as an integer",
        "size='some': should be 'all', or should be a valid integer, unable to parse string as an integer",
        "tagged.hgih: is no known setting; did you mean 'high'?",
    ]


def test_a_mistake_of_several_parts_names_the_whole():
    assert lines({"name": "n", "part": {"low": 3}}) == ["part: low is above high; swap them"]


def test_places_are_told_apart_from_texts():
    valid, (mistake,) = find_mistakes({"name": "n", "part": {"high": "x"}}, Whole)
    assert valid is None
    assert mistake.place == ("part", "high")
    assert str(mistakes_error("f", [mistake])).startswith("f: 1 mistake\n  part.high='x'")


def test_what_is_valid_is_returned():
    valid, mistakes = find_mistakes({"name": "n", "tagged": "x"}, Whole)
    assert valid == Whole(name="n", tagged="x")
    assert mistakes == []


def test_a_file(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("name: n\nparts: [{low: 0}]\n")
    assert read_model(path, Whole) == Whole(name="n", parts=[Part()])
    path.write_text("nmae: n\n")
    with pytest.raises(ArgumentError, match=r"file\.yaml: 2 mistakes"):
        read_model(str(path), Whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"),
        ("a: \xff", "is no YAML"),
        ("just words", "must hold 'name: value' lines, not str"),
        ("", "must hold 'name: value' lines, not NoneType"),
        ("a: 1\nb: {c: 1, c: 2}\n", "'c' is said twice"),
        ("1: a\n1: b\n", "1 is said twice"),
        ("a: !!python/object/apply:os.system [echo]", "is no YAML"),
    ],
)
def test_what_is_no_such_file(tmp_path, text, message):
    path = tmp_path / "file.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ArgumentError, match=message):
        read_yaml(path)


def test_a_name_said_twice_at_different_places_is_fine(tmp_path):
    (tmp_path / "file.yaml").write_text("a: {c: 1}\nb: {c: 2, 3: x}\n")
    assert read_yaml(tmp_path / "file.yaml") == {"a": {"c": 1}, "b": {"c": 2, 3: "x"}}


def test_no_file(tmp_path):
    with pytest.raises(NotFoundError, match=r"nix\.yaml"):
        read_yaml(tmp_path / "nix.yaml")


def test_did_you_mean():
    assert did_you_mean("carier", ["carrier", "origin"]) == "; did you mean 'carrier'?"
    assert did_you_mean("x", ["b", "a"]) == "; there is a, b"
    assert did_you_mean("x", []) == ""
    assert did_you_mean("?", map(str, range(20))).endswith(", ...")
