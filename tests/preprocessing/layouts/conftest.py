import json
from pathlib import Path

import pytest


@pytest.fixture
def tree(tmp_path):
    """Make empty files, or files of a text, or JSON ones, below a folder."""

    def make(*names, **texts) -> Path:
        root = tmp_path / "dataset"
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        for name, content in texts.pop("files", {}).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8")
        return root

    return make


def rows(root, cases):
    """Cases as (id, images, labels, split), paths relative to the dataset."""
    return [
        (
            one.case,
            [path.relative_to(root).as_posix() for path in one.images],
            [path.relative_to(root).as_posix() for path in one.labels],
            one.split,
        )
        for one in cases
    ]


@pytest.fixture(name="rows")
def rows_fixture():
    return rows
