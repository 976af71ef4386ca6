"""What a folder of predictions was made with, and which cases are done: ``predictions.json``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samtune import __version__
from samtune.atomic import write_atomically

RECORD_FILE = "predictions.json"
FORMAT_VERSION = 1


def drop_companions(folder: Path, *names: str) -> None:
    """Remove tables of earlier predictions, which are not of those that are made now."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


class PredictionRecord:
    """The companion of a folder of predictions, written again after each case.

    Args:
        folder: of the label files.
        settings: what the predictions depend on (JSON types).
        runs: folders of the runs, as they were named.
        resume: go on with what is there.

    Attributes:
        done: finished case to the SHA-256 of its scan.

    Raises:
        FileExistsError: to be resumed are predictions made with other settings; names the keys.
        ValueError: the file there is not such a record.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        runs: Sequence[str] = (),
        resume: bool = False,
    ) -> None:
        self.path = folder / RECORD_FILE
        self.runs = list(runs)
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self.done: dict[str, str] = {}
        if resume and self.path.is_file():
            self.done = self._read()

    def _read(self) -> dict[str, str]:
        try:
            record = json.loads(self.path.read_bytes())
            before, cases = dict(record["settings"]), dict(record["cases"])
        except (ValueError, KeyError, TypeError) as error:
            msg = f"'{self.path}' is not a record of predictions ({error}): can't be resumed"
            raise ValueError(msg) from error
        different = [
            f"{key} was {before.get(key)!r}, now {self.settings.get(key)!r}"
            for key in sorted(set(before) | set(self.settings))
            if before.get(key) != self.settings.get(key)
        ]
        if different:
            msg = (
                f"'{self.path.parent}' holds predictions made otherwise: {'; '.join(different)}; "
                "choose another folder, or predict without resuming"
            )
            raise FileExistsError(msg)
        return cases

    def add(self, case: str, sha256: str) -> None:
        """A case is done."""
        self.done[case] = sha256
        self.write()

    def write(self, *, complete: bool = False) -> None:
        """Write the file.

        Args:
            complete: all cases that were asked for are done.
        """
        record = {
            "format_version": FORMAT_VERSION,
            "complete": complete,
            "samtune": __version__,
            "runs": self.runs,
            "settings": self.settings,
            "cases": dict(sorted(self.done.items())),
        }
        text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False)
        write_atomically(self.path, (text + "\n").encode())
