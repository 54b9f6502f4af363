"""The page that ``mmkd report`` writes, as a test looks at it."""

from html.parser import HTMLParser
from pathlib import Path

from command_line import mmkd


class Page(HTMLParser):
    """What a browser would make of the page, as far as a test asks."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.hidden = False
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.hidden = tag == "style"
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "action", "data"}:
                self.links.append(value or "")
            assert not name.startswith("on"), (tag, name)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(*runs: Path, out: Path) -> Page:
    done = mmkd("report", *runs, "--out", out)
    assert done.returncode == 0, done.stderr
    return Page(out)
