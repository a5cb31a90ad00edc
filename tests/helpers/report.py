"""Reading a report as a browser and a screen reader would."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser would find: elements, their attributes and their text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[tuple[str, str | None]] = []
        self._table: str | None = None
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag in VOID:
            return
        self._open.append((tag, attributes.get("id")))
        if tag == "table":
            self._table = attributes["id"] or ""
            self.tables[self._table] = []
        elif tag == "tr" and self._table is not None:
            self.tables[self._table].append([])
        elif tag in ("th", "td") and self._table is not None:
            self.tables[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        for _, name in self._open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data
        if any(tag in ("th", "td") for tag, _ in self._open) and self._table is not None:
            self.tables[self._table][-1][-1] += data

    def close(self) -> None:
        super().close()
        assert self._open == []

    def rows(self, table: str) -> list[dict[str, str]]:
        head, *body = self.tables[table]
        return [dict(zip(head, (cell.strip() for cell in cells), strict=True)) for cells in body]

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def assert_self_contained(page: Page) -> None:
    """Nothing is loaded, nothing runs, every reference leads to a place in the page."""
    ids = page.ids()
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    for tag, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert value is not None
                assert value.startswith("data:") or value[1:] in ids, (tag, key, value)
            for name in (value or "").split("url(")[1:]:
                assert name.partition(")")[0].removeprefix("#") in ids, (tag, key, value)
    text = page.path.read_text("utf-8")
    assert "http:" not in text
    assert "https:" not in text


def assert_accessible(page: Page) -> None:
    """Figures have a title and a description, tables a caption and headers."""
    ids = page.ids()
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == page.count("figcaption") == page.count("figure")
    for attributes in drawings:
        assert attributes["role"] == "img"
        for name in (attributes["aria-labelledby"] or "").split():
            assert name in ids
            assert page.texts[name].strip()
    assert page.count("caption") == page.count("table")
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert ("html", {"lang": "en"}) in page.elements
