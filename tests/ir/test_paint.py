"""How functions, ops, units and remarks show themselves: the same words, coloured and escaped."""

from __future__ import annotations

import io
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from leptonc.ir import paint
from leptonc.ir.core import Builder, Function, Origin
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.text import dump
from leptonc.ir.types import DType, TensorType
from leptonc.rewrite.trace import Remark, RemarkKind

EVIL = "<script>alert('x')</script>&[bold]"
F = TensorType(DType.F32, (1, 3))


class _Text(HTMLParser):
    """Collects what a reader sees and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.seen = "", set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.add(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def read(html: str) -> _Text:
    parser = _Text()
    parser.feed(html)
    assert parser.open == [] and "script" not in parser.seen and "http" not in html
    return parser


def function() -> Function:
    inner = Builder("body")
    inner.finish(y := inner(Relu(), inner.param(F, "a"), hint="b"))
    b = Builder("net")
    x = b.param(F, "x")
    (u,) = b.emit(Unit(inner.finish(y), f"u{EVIL}", "chain"), x, origin=Origin("m", "net.py:3"))
    (z,) = b.emit(TorchOp(EVIL, (), (), (F,)), u, hint="z")
    return b.finish(z)


def printed(thing: object, width: int = 500, **options: object) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **options).print(thing, soft_wrap=True)  # pyright: ignore
    return out.getvalue()


@given(st.text())
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(t for _, t in paint.pieces(text)) == text
    assert unescape("".join(paint.spans(paint.pieces(text)))) or not text


def test_indentation_is_no_blank_between_two_elements() -> None:
    """Tools that clean HTML drop those, and lines of exported notebooks would begin at the left."""
    text = "func @f(%x: f32[3]) {\n  %a = abs(%x) : f32[3]\n  %b = abs(%a) : f32[3]\n  return %b\n}"
    assert not [t for role, t in paint.pieces(text) if not role and t.isspace() and "\n " in t]


def test_roles_of_a_line() -> None:
    line = "  %c = conv{stride=(1,1), name='a = %b'}(%x, %w) : f32[b,3]@0231  // conv1 (net.py:12)"
    found = [(r, t) for r, t in paint.pieces(line) if r]
    assert found == [
        ("name", "  %c"), ("kind", "conv"), ("attr", "stride="), ("attr", "name="),
        ("text", "'a = %b'"), ("name", "%x"), ("name", "%w"), ("type", "f32[b,3]@0231"),
        ("note", "  // conv1 (net.py:12)"),
    ]  # fmt: skip


def test_html_shows_the_dump_and_folds_units() -> None:
    fn = function()
    page = read(fn._repr_html_())
    assert page.text.replace("\n", "") == dump(fn).replace("\n", "")
    assert {"details", "summary"} <= page.seen
    assert "    }\n  }</div></details>" in fn._repr_html_(), "the body's brace is inside the fold"


@pytest.mark.parametrize(
    "thing",
    [
        function().ops[0], function().ops[1], function().ops[0].kind,
        Remark("fuse", RemarkKind.MISSED, EVIL, EVIL, Origin(EVIL, "net.py:3"), "r1"),
    ],
)  # fmt: skip
def test_everything_is_escaped_and_says_the_same_in_colour(
    thing: paint.Painted,
) -> None:
    words = "".join(text for _, text in thing.painted())
    assert read(thing._repr_html_()).text == words
    assert printed(thing) == f"{words}\n"
    assert EVIL in words or isinstance(thing, Unit) or "relu" in words


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    fn, terminal = function(), {"force_terminal": True, "color_system": "truecolor"}
    assert "\x1b[" in printed(fn, **terminal)
    assert printed(fn) == dump(fn) + "\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[35" not in printed(fn, **terminal)


def test_a_narrow_terminal_breaks_lines_but_loses_nothing() -> None:
    out = io.StringIO()
    Console(file=out, width=30).print(function())
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 30
    assert "".join("".join(lines).split()) == "".join(dump(function()).split())


def test_reprs_are_one_line_each() -> None:
    fn = function()
    assert repr(fn) == "<Function net(f32[1,3]) -> f32[1,3]: 2 ops>"
    assert repr(fn.params[0]) == "<Value %x: f32[1,3]>"
    assert repr(fn.ops[0].kind).startswith("<Unit u<script>") and "1 ops" in repr(fn.ops[0].kind)
    assert repr(fn.ops[1]).startswith("<Op %z = torch_op{")
    assert "\n" not in repr(fn.ops[0])
