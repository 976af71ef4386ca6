"""The folder that slicing writes: may this run go on in it, and what of it is done already."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from samtune.atomic import partial_path
from samtune.preprocessing.manifest import (
    MANIFEST_NAME,
    Manifest,
    SliceRecord,
    label_values,
    load_manifest,
)
from samtune.preprocessing.pairing import CaseFiles
from samtune.preprocessing.slice_case import case_path, read_case_file
from samtune.preprocessing.source_hash import source_sha256

CONTACT_SHEET_NAME = "contact_sheet.png"


def finished_cases(
    out: Path, files: Iterable[CaseFiles], settings: dict[str, Any], split: Mapping[str, str]
) -> list[str]:
    """Cases that a former run of the same configuration completed, sorted.

    Raises:
        ValueError: the folder was made with other settings (each named, old and new), holds a
            case that is not among the input, a source file has changed since, or a case that
            was given to one split would now be in another.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder for the output, found a file")
    by_case = {one.case: one for one in files}
    done = []
    for path in sorted((out / "cases").glob("*.json")):
        if path.name.startswith("."):
            continue
        content = read_case_file(path)
        differing = _differences(content.settings, settings)
        if differing:
            raise ValueError(
                f"{out}: was made with another configuration ({path.name}): "
                f"{'; '.join(differing)}; use another folder, or --force to do all of it again"
            )
        case = path.stem
        if case not in by_case:
            raise ValueError(
                f"{out}: holds case {case!r}, which is not among the {len(by_case)} images; use "
                "another folder, or --force to do all of it again"
            )
        labels = by_case[case].labels
        _check_unchanged(by_case[case].images, content.record.source_sha256)
        if labels and content.record.label_sha256 is not None:
            _check_unchanged(labels, content.record.label_sha256)
        if all((out / row.file).is_file() for row in content.slices):
            done.append(case)
    if (out / MANIFEST_NAME).is_file():
        _check_split(load_manifest(out), split)
    return sorted(done)


def assemble_manifest(
    out: Path, settings: dict[str, Any], split: Mapping[str, str], failed: Collection[str]
) -> Manifest:
    """Manifest of the cases in ``split`` but not in ``failed``, from their records."""
    cases, slices = {}, list[SliceRecord]()
    for case in sorted(set(split) - set(failed)):
        content = read_case_file(case_path(out, case))
        cases[case] = replace(content.record, split=split[case])
        slices += [replace(row, split=split[case]) for row in content.slices]
    slices.sort(key=lambda row: (row.case, row.index))
    settings = {**settings, "label_values": label_values(slices)}
    return Manifest(out, settings, cases, slices, sorted(failed))


def clear_output(out: Path, cases: Iterable[str]) -> None:
    """Remove what slicing wrote for these cases and for all that have a record here."""
    records = [path for path in (out / "cases").glob("*.json") if not path.name.startswith(".")]
    for path in [*records, out / MANIFEST_NAME, out / CONTACT_SHEET_NAME]:
        path.unlink(missing_ok=True)
    remove_slice_files(out, {*cases, *(path.stem for path in records)}, keep=())


def remove_slice_files(out: Path, cases: Collection[str], keep: Collection[str]) -> None:
    """Remove slice files of ``cases``, complete or partial, that are not in ``keep``.

    Files of other names are none of ours and stay.
    """
    kept = {Path(name).name for name in keep}
    for case in cases:
        partial_path(case_path(out, case)).unlink(missing_ok=True)
    for path in (out / "slices").glob("*"):
        match = re.fullmatch(r"\.?(.+?)\.npz(\.part)?", path.name)
        if match is None or path.name in kept:
            continue
        if match[1] in cases or re.sub(r"_\d{3,}$", "", match[1]) in cases:
            path.unlink()


def _check_unchanged(paths: tuple[Path, ...], sha256: str) -> None:
    now = source_sha256(paths)
    if now != sha256:
        raise ValueError(
            f"{paths[0]}: has changed since it was sliced: sha256 {now[:12]}..., expected "
            f"{sha256[:12]}...; restore it, or --force to do all of the output folder again"
        )


def _check_split(old: Manifest, split: Mapping[str, str]) -> None:
    moved = [
        f"{case}: {record.split} -> {split[case]}"
        for case, record in old.cases.items()
        if case in split and record.split != split[case]
    ]
    if moved:
        raise ValueError(
            f"{old.root}: the input has changed and {len(moved)} of {len(old.cases)} cases would "
            f"move to another split ({moved[0]}); use another folder, or --split-csv with "
            "--force to keep them"
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, now = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key, 'not set')} -> {now.get(key, 'not set')}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
