"""The folder that slicing writes: may this run go on in it, and what of it is done already."""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from samtune.atomic import partial_path, write_atomically
from samtune.preprocessing.folder_lock import LOCK_NAME
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
FAILURES_NAME = "failures.csv"
OUR_FILES = (MANIFEST_NAME, CONTACT_SHEET_NAME, FAILURES_NAME)
OUR_NAMES = ("cases", "slices", LOCK_NAME, *OUR_FILES)
MAX_NAMED = 3
SHORT_NAME = 4  # letters; shorter ones may be part of any word


def check_output_folder(out: Path) -> None:
    """Refuse a folder that something else filled: its files and ours would mix.

    A folder is ours when it holds a manifest, a case record, or nothing of other names.

    Raises:
        ValueError: it is a file, or holds others' files; names the first of them.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out}: expected a folder for the output, found a file")
    if (out / MANIFEST_NAME).is_file() or any((out / "cases").glob("*.json")):
        return
    ours = {*OUR_NAMES, *(partial_path(out / name).name for name in OUR_FILES)}
    foreign = sorted(path.name for path in out.iterdir() if path.name not in ours)
    if foreign:
        more = f" and {len(foreign) - MAX_NAMED} more" if len(foreign) > MAX_NAMED else ""
        raise ValueError(
            f"{out}: holds files that samtune slice did not write "
            f"({', '.join(foreign[:MAX_NAMED])}{more}); expected a new or empty folder, or one "
            "that it made"
        )


def finished_cases(out: Path, files: Iterable[CaseFiles], settings: dict[str, Any]) -> list[str]:
    """Cases that a former run of the same configuration completed, sorted.

    Raises:
        ValueError: the folder was made with other settings (each named, old and new), holds a
            case that is not among the input, or a source file has changed since.
    """
    check_output_folder(out)
    by_case = {one.case: one for one in files}
    old = load_manifest(out) if (out / MANIFEST_NAME).is_file() else None
    done = []
    for path in sorted((out / "cases").glob("*.json")):
        if path.name.startswith("."):
            continue
        content = read_case_file(path)
        before = content.settings
        if old is not None:  # 'samtune split' may have changed it there since
            before = {**before, "split": old.settings["split"]}
        differing = _differences(before, settings)
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
    return sorted(done)


def check_split(out: Path, split: Mapping[str, str]) -> None:
    """Refuse to move a case that the folder's manifest has in one split to another.

    Raises:
        ValueError: counts those that would move.
    """
    if not (out / MANIFEST_NAME).is_file():
        return
    old = load_manifest(out)
    moved = [
        f"{case}: {record.split} -> {split[case]}"
        for case, record in old.cases.items()
        if case in split and record.split != split[case]
    ]
    if moved:
        raise ValueError(
            f"{old.root}: the input has changed and {len(moved)} of {len(old.cases)} cases would "
            f"move to another split ({moved[0]}); use another folder, or --split-csv with "
            "--force to keep them; 'samtune split' changes the split of a finished folder"
        )


def assemble_manifest(
    out: Path,
    settings: dict[str, Any],
    cases: Iterable[str],
    failed: Collection[str],
    *,
    patients: Mapping[str, str],
) -> Manifest:
    """Manifest of ``cases`` without those in ``failed``, from their records, without a split."""
    records, slices = {}, list[SliceRecord]()
    for case in sorted(set(cases) - set(failed)):
        content = read_case_file(case_path(out, case))
        records[case] = replace(content.record, patient=patients.get(case))
        slices += content.slices
    slices.sort(key=lambda row: (row.case, row.index, row.tile))
    settings = {**settings, "label_values": label_values(slices)}
    return Manifest(out, settings, records, slices, sorted(failed))


def with_split(manifest: Manifest, split: Mapping[str, str]) -> Manifest:
    """The manifest with another split of its cases; ``split`` may have more."""
    cases = {case: replace(one, split=split[case]) for case, one in manifest.cases.items()}
    slices = [replace(row, split=split[row.case]) for row in manifest.slices]
    return replace(manifest, cases=cases, slices=slices)


def clear_output(out: Path, cases: Iterable[str]) -> None:
    """Remove what slicing wrote for these cases and for all that have a record here."""
    records = [path for path in (out / "cases").glob("*.json") if not path.name.startswith(".")]
    for path in [*records, *(out / name for name in OUR_FILES)]:
        path.unlink(missing_ok=True)
    remove_slice_files(out, {*cases, *(path.stem for path in records)}, keep=())


def write_failures(out: Path, failed: Mapping[str, str], files: Iterable[CaseFiles]) -> None:
    """Write ``failures.csv`` (case, file, reason), or remove that of a former run.

    Files are named without their folders: nothing in the output tells about this machine.
    """
    path = out / FAILURES_NAME
    if not failed:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case", "file", "reason"))
    for one in sorted(files, key=lambda one: one.case):
        if one.case in failed:
            reason = _without_folders(failed[one.case], one)
            writer.writerow((one.case, one.image_name, reason.replace(str(out), out.name)))
    write_atomically(path, text.getvalue().encode())


def _without_folders(reason: str, one: CaseFiles) -> str:
    """An error's text with no path in it, and none of the files' names if these are hidden."""
    for file in (*one.images, *one.labels):
        reason = reason.replace(str(file), one.image_name if one.is_hidden else file.name)
        if one.is_hidden:
            name = re.escape(file.name.split(".")[0])
            part = name if len(name) >= SHORT_NAME else rf"(?<!\w){name}(?!\w)"
            reason = re.sub(rf"{part}[^\s:,]*", one.image_name, reason)
    return reason


def remove_slice_files(out: Path, cases: Collection[str], keep: Collection[str]) -> None:
    """Remove slice files of ``cases``, complete or partial, that are not in ``keep``.

    So is what a killed run left beside them. Files of other names are none of ours and stay.
    """
    kept = {Path(name).name for name in keep}
    for name in OUR_FILES:
        partial_path(out / name).unlink(missing_ok=True)
    for path in (out / "cases").glob(".*.json.lock"):  # of no use to anyone: we hold the folder
        path.unlink()
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
