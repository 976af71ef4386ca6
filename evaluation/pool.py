"""Several tables of metrics over different cases as one: the out-of-fold table of all folds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samtune.evaluation.definitions import DEFINITION_VERSION
from samtune.evaluation.metrics_csv import MetricsCsv
from samtune.evaluation.regions import Region
from samtune.evaluation.summary import SummaryRow, summarise, write_summary
from samtune.evaluation.table import Row, read_metrics

# of the companion's protocol: differs from table to table
_OWN = ("run", "num_cases", "postprocess")
# of the companion's settings: written by the table itself
_TABLES = ("regions", "cldice", "definition", "definition_version")


def pool_tables(
    tables: Mapping[str, str | Path], out: str | Path, *, run: str | Path | None = None
) -> list[SummaryRow]:
    """Write the rows of all tables as one table, with companion and summary.

    The summary's intervals draw patients where the tables know them. The companion says under
    ``folds`` which cases came from which table.

    Args:
        tables: name to table, with its companion beside it; of different cases.
        out: the table to write, ``.csv``.
        run: what the companion's protocol names as the model.

    Returns:
        The summary.

    Raises:
        FileNotFoundError: a table or its companion is missing.
        ValueError: a table is unfinished or scored with other settings, or a case is in two.
    """
    companions = {name: _companion(Path(path)) for name, path in tables.items()}
    first = next(iter(companions), None)
    if first is None:
        raise ValueError(f"{out}: no tables to pool")
    settings = companions[first]["settings"]
    for name, companion in companions.items():
        for key in sorted(settings.keys() | companion["settings"].keys()):
            was, now = settings.get(key), companion["settings"].get(key)
            if json.dumps(was) != json.dumps(now):
                raise ValueError(
                    f"{tables[name]}: its {key} is {now}, that of {tables[first]} {was}; expected "
                    "tables that were scored alike"
                )
    if settings.get("definition_version") != DEFINITION_VERSION:
        raise ValueError(f"{tables[first]}: made by another version of samtune; score it again")
    rows = {name: read_metrics(path) for name, path in tables.items()}
    cases = {name: list(dict.fromkeys(row.case for row in rows[name])) for name in rows}
    of_case: dict[str, list[Row]] = {}
    for name, table in rows.items():
        twice = sorted(of_case.keys() & set(cases[name]))
        if twice:
            raise ValueError(f"{tables[name]}: case '{twice[0]}' is in another table too")
        for row in table:
            of_case.setdefault(row.case, []).append(row)
    unit: Any = "px" if "tolerances_px" in settings else "mm"
    patients = _patients(companions, cases)
    diagonals = {k: v for one in companions.values() for k, v in one.get("diagonals", {}).items()}
    protocol = _shared([one.get("protocol", {}) for one in companions.values()])
    table_out = MetricsCsv(
        out,
        regions=_regions(settings, unit),
        tolerances_mm=settings[f"tolerances_{unit}"],
        definition=settings["definition"],
        unit=unit,
        settings={
            key: value
            for key, value in settings.items()
            if key not in _TABLES and not key.startswith("tolerances_")
        },
        notes={
            "protocol": {
                **protocol,
                **({} if run is None else {"run": str(run)}),
                "num_cases": len(of_case),
                "out_of_fold": True,
            },
            "folds": cases,
            **({} if patients is None else {"patients": patients}),
        },
        force=True,
    )
    for case in sorted(of_case):
        table_out.add(of_case[case])
    pooled = table_out.finish(notes={"diagonals": diagonals})
    summary = summarise(pooled, patients=patients, diagonals=diagonals)
    write_summary(table_out.path.with_name(f"{table_out.path.stem}_summary.csv"), summary)
    return summary


def _companion(table: Path) -> dict[str, Any]:
    path = table.with_suffix(".json")
    try:
        companion: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(companion, dict) or not isinstance(companion.get("settings"), dict):
        raise ValueError(f"{path}: no 'settings', expected the companion of {table.name}")
    if not companion.get("complete"):
        raise ValueError(f"{table}: not finished; score its cases again")
    return companion


def _regions(settings: Mapping[str, Any], unit: str) -> list[Region]:
    own = settings.get(f"tolerances_{unit}_by_region", {})
    return [
        Region(
            name,
            tuple(int(value) for value in label.split("+")),
            tuple(own[name]) if name in own else None,
            cldice=name in settings.get("cldice", ()),
        )
        for name, label in settings["regions"].items()
    ]


def _patients(
    companions: Mapping[str, Mapping[str, Any]], cases: Mapping[str, list[str]]
) -> dict[str, str] | None:
    """Case to patient; a case of a table that knows none is the only one of its patient."""
    if not any("patients" in companion for companion in companions.values()):
        return None
    return {
        case: companions[name].get("patients", {}).get(case, f"case {case}")
        for name in companions
        for case in cases[name]
    }


def _shared(protocols: list[dict[str, Any]]) -> dict[str, Any]:
    """What all of them say."""
    return {
        key: value
        for key, value in protocols[0].items()
        if key not in _OWN and all(one.get(key) == value for one in protocols)
    }
