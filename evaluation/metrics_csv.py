"""A metrics table that grows a case at a time and outlives a kill.

While it grows, each finished case is appended in one write, in the order in which cases finish. A
kill can leave a torn last line or half a case: both are dropped when the table is opened again.
``finish`` sorts it. The companion ``NAME.json`` says which settings the rows belong to.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samtune.atomic import append, write_atomically
from samtune.evaluation.definitions import DEFINITION_VERSION, definitions, tool_versions
from samtune.evaluation.metrics import Status, check_tolerances
from samtune.evaluation.regions import Region, check_regions
from samtune.evaluation.surface_scores import DEFAULT_DEFINITION, Definition
from samtune.evaluation.table import (
    Row,
    Unit,
    all_tolerances,
    column_names,
    format_csv,
    format_rows,
    parse_rows,
)

FORMAT_VERSION = 1
RETRIED: tuple[Status, ...] = ("missing_pred", "failed")  # the cause may be gone the next time


class MetricsCsv:
    """The table ``path`` and its companion, opened to be filled.

    Args:
        path: the CSV, ending in ``.csv``; the companion is the same name with ``.json``.
        regions: what is scored in every case, in the order of the rows.
        tolerances_mm: Surface Dice tolerances of regions without their own, one column each.
        definition: of the surface metrics.
        unit: of lengths and tolerances: ``px`` if the images have no spacing.
        settings: what else the numbers depend on (JSON types), as the folders compared.
        inputs: case -> fingerprint of its files; a kept case whose fingerprint is another one now
            is scored again. Cases that aren't listed are dropped. None: every case is kept.
        notes: further entries of the companion.
        force: begin anew whatever is there.

    Attributes:
        finished: cases that are there already and needn't be scored again.
        tolerances_mm: of all columns.

    Raises:
        FileExistsError: the table exists without companion, or with other settings (names what
            differs); nothing is changed then.
        ValueError: ``path`` doesn't end in .csv, or the existing file is no such table.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        regions: Iterable[Region],
        tolerances_mm: Sequence[float] = (1.0,),
        definition: Definition = DEFAULT_DEFINITION,
        unit: Unit = "mm",
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        notes: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix != ".csv":
            raise ValueError(f"{self.path}: expected a file name that ends in .csv")
        self.companion = self.path.with_suffix(".json")
        self.regions = check_regions(regions)
        self.tolerances_mm = all_tolerances(tolerances_mm, self.regions)
        self.unit = unit
        self.definition = definition
        self._has_cldice = any(region.cldice for region in self.regions)
        own = {r.name: list(r.tolerances_mm) for r in self.regions if r.tolerances_mm is not None}
        self._settings = {
            **(settings or {}),
            "regions": {region.name: region.label for region in self.regions},
            f"tolerances_{unit}": list(check_tolerances(tolerances_mm)),
            **({f"tolerances_{unit}_by_region": own} if own else {}),
            **({"cldice": [r.name for r in self.regions if r.cldice]} if self._has_cldice else {}),
            "definition": definition,
            "definition_version": DEFINITION_VERSION,
        }
        self._inputs = None if inputs is None else dict(sorted(inputs.items()))
        self._notes = dict(notes or {})
        self._failures: dict[str, str] = {}
        self._rows: dict[str, list[Row]] = {}
        if self.path.exists() and not force:
            self._rows = self._read_kept()
            self._write_table()  # drops what a kill tore, before anything is appended
            self._write_companion()
        else:
            # In this order no kill leaves old rows beside the new settings.
            self.path.unlink(missing_ok=True)
            self._write_companion()
            self._write_table()
        self.finished = frozenset(self._rows)

    def add(self, rows: Sequence[Row], *, reason: str | None = None) -> None:
        """Append a finished case.

        Args:
            rows: its rows, one a region, in the regions' order.
            reason: why it failed, for the companion.

        Raises:
            ValueError: the rows aren't those of one new case and all regions.
        """
        cases = {row.case for row in rows}
        if len(cases) != 1 or not self._is_whole(rows):
            raise ValueError(
                f"{self.path}: got rows {[(row.case, row.name) for row in rows]}, expected one "
                f"case with {[region.name for region in self.regions]}"
            )
        case = cases.pop()
        if case in self._rows:
            raise ValueError(f"{self.path}: case '{case}' is there already")
        append(self.path, self._format(rows).encode())
        self._rows[case] = list(rows)
        if reason is not None:
            self._failures[case] = reason
            self._write_companion()

    @property
    def rows(self) -> list[Row]:
        """All rows by case, the kept ones too."""
        return self._sorted_rows()

    def finish(self, *, notes: Mapping[str, Any] | None = None) -> list[Row]:
        """Sort the table by case, mark it complete and return all rows, the kept ones too.

        Args:
            notes: further entries of the companion, which only the rows could tell.
        """
        self._notes |= notes or {}
        self._write_table()
        self._write_companion(complete=True)
        return self._sorted_rows()

    def _sorted_rows(self) -> list[Row]:
        return [row for _, rows in sorted(self._rows.items()) for row in rows]

    def _is_whole(self, rows: Sequence[Row]) -> bool:
        keys = [(region.label, region.name) for region in self.regions]
        return [(row.label, row.name) for row in rows] == keys

    def _read_kept(self) -> dict[str, list[Row]]:
        """Cases of the existing table that are whole, scored, and of the same files."""
        if not self.companion.exists():
            raise FileExistsError(
                f"{self.path} exists, but not {self.companion.name}, which says what it holds; "
                "choose another name, or overwrite it with --force"
            )
        companion = self._read_companion()
        self._check_settings(companion["settings"])
        text = self.path.read_bytes().decode("utf-8", errors="replace")
        text = text[: text.rfind("\n") + 1]  # a line without its end was torn
        header = text.partition("\n")[0].split(",")
        if header != self._columns():
            raise ValueError(
                f"{self.path}: found columns {','.join(header)}, expected "
                f"{','.join(self._columns())}; overwrite it with --force"
            )
        cases: dict[str, list[Row]] = {}
        for row in parse_rows(text, self.path):
            cases.setdefault(row.case, []).append(row)
        before = companion.get("inputs") or {}
        return {
            case: rows
            for case, rows in cases.items()
            if self._is_whole(rows)
            and not any(row.status in RETRIED for row in rows)
            and (
                self._inputs is None
                or (case in self._inputs and self._inputs[case] == before.get(case))
            )
        }

    def _read_companion(self) -> dict[str, Any]:
        try:
            companion = json.loads(self.companion.read_bytes())
        except ValueError as error:
            raise ValueError(f"{self.companion}: not JSON ({error}); use --force") from None
        if not isinstance(companion, dict) or not isinstance(companion.get("settings"), dict):
            raise ValueError(f"{self.companion}: no 'settings', expected the table's companion")
        return companion

    def _check_settings(self, found: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(self._settings))
        for key in sorted(found.keys() | wanted.keys()):
            # Order counts in regions: it is the order of the rows.
            if json.dumps(found.get(key)) != json.dumps(wanted.get(key)):
                raise FileExistsError(
                    f"{self.path} holds another evaluation: its {key} is {found.get(key)}, now "
                    f"{wanted.get(key)}; choose another name, or overwrite it with --force"
                )

    def _columns(self) -> list[str]:
        return column_names(self.tolerances_mm, cldice=self._has_cldice, unit=self.unit)

    def _format(self, rows: Sequence[Row]) -> str:
        return format_rows(rows, self.tolerances_mm, cldice=self._has_cldice)

    def _write_table(self) -> None:
        header, rows = format_csv([self._columns()]), self._format(self._sorted_rows())
        write_atomically(self.path, (header + rows).encode())

    def _write_companion(self, *, complete: bool = False) -> None:
        companion = {
            "format_version": FORMAT_VERSION,
            "table": self.path.name,
            "complete": complete,
            "settings": self._settings,
            "definitions": definitions(self.definition),
            "versions": tool_versions(),
            **self._notes,
            "failures": dict(sorted(self._failures.items())),
            "inputs": self._inputs,
        }
        text = json.dumps(companion, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.companion, (text + "\n").encode())
