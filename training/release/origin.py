"""What a bundle says of the slices it was trained on, so that others can make them again."""

from pathlib import Path

from samtune.atomic import write_atomically
from samtune.evaluation.table import format_csv
from samtune.preprocessing.slice_command import slice_command, unsaid_settings
from samtune.training.release.checks import Slices

SPLIT_FILE = "split.csv"


def write_splits(made_with: list[Slices], docs: Path) -> list[str]:
    """Tables with the columns ``case,split`` (and ``patient``), for ``samtune slice --split-csv``.

    Returns:
        Their names: one, or where members of an ensemble differ one a member. None for a user's
        own dataset, which has no cases.
    """
    texts = [_table(slices) for slices in made_with]
    if not any(cases for slices in made_with for cases in slices.splits.values()):
        names = []
    elif len(set(texts)) == 1:
        names = [SPLIT_FILE]
    else:
        names = [f"split_fold_{number}.csv" for number in range(len(texts))]
    for name, text in zip(names, texts, strict=False):  # one name: all texts are the same
        write_atomically(docs / name, text.encode())
    return names


def train_again(made_with: list[Slices], names: list[str]) -> str:
    """Section of the model card: how to make the slices, and train on them.

    Args:
        names: of :func:`write_splits`.
    """
    listed = ", ".join(f"`docs/{name}`" for name in names)
    first = made_with[0]
    if len(names) > 1 or first.settings is None or "modality" not in first.settings:
        return f"{listed}: which case was for what. `configs/train.yaml` has all else."
    table = f"docs/{names[0]}"
    grouped = len(first.patients) == sum(map(len, first.splits.values()))
    command = slice_command(first.settings, split_csv=table, patient_csv=table if grouped else None)
    text = (
        "With the cases of `" + table + "`, in the bundle's folder:\n\n```bash\n"
        f"{command}\n"
        "python -m monai.bundle run training --config_file configs/train.yaml\n```"
    )
    unsaid = unsaid_settings(first.settings)
    if unsaid:
        text += f"\n\nNot in the first command: {', '.join(unsaid)}."
    return text


def _table(slices: Slices) -> str:
    """Patients are numbered in their order: what they are called may tell who they are."""
    split_of = {case: split for split, cases in slices.splits.items() for case in cases}
    columns = ["case", "split"] + (["patient"] if slices.patients else [])
    ordered = sorted(set(slices.patients.values()))
    number = {patient: f"{at:0{len(str(len(ordered)))}}" for at, patient in enumerate(ordered, 1)}
    lines = [columns]
    for case in sorted(split_of):
        patient = number.get(slices.patients.get(case, ""), "")
        lines.append([case, split_of[case], patient][: len(columns)])
    return format_csv(lines)
