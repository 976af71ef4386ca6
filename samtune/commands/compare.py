"""``samtune compare``: several methods' tables of metrics, paired case by case."""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.evaluation.comparison import Comparison
    from samtune.evaluation.score_table import ScoreTable
    from samtune.preprocessing.manifest import Manifest

MAX_LINES = 20  # of tests on a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "tables",
        type=Path,
        nargs="+",
        metavar="TABLE.csv",
        help="tables of metrics that samtune evaluate or a bundle wrote, at least two, of the "
        "same cases and classes; differences are the later table minus the earlier",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write: comparison.csv, ranking.csv, performance.csv, summary.csv, "
        "comparison.json (definitions, settings), figures",
    )
    parser.add_argument(
        "--names",
        nargs="+",
        metavar="NAME",
        help="the methods' names, one a table (default: file names, or folders where these are "
        "the same)",
    )
    parser.add_argument(
        "--metric",
        action="append",
        metavar="COLUMN",
        help="column to test and rank, as dice; repeat for several; fewer tests keep more power "
        "after Holm's correction (default: every score that all tables have)",
    )
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="FILE",
        help="table case,patient or a manifest: cases of one patient are resampled together and "
        "tested as one (default: what the tables' JSON says, else each case is its own patient)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the resampling (default: 0)"
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=9999,
        metavar="N",
        help="bootstrap resamples of each interval (default: 9999)",
    )
    parser.add_argument(
        "--figures",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw performance and cases as PNG, SVG and PDF, and the grid as SVG and PDF too; "
        "needs matplotlib (default: on)",
    )
    parser.add_argument(
        "--slices",
        type=Path,
        metavar="DIR",
        help="folder made by samtune slice; with --pred, grid.png shows image, reference and "
        "predictions of the worst, median and best case",
    )
    parser.add_argument(
        "--pred",
        action="append",
        type=_name_and_folder,
        metavar="NAME=DIR",
        help="folder of a method's label files, CASE.nii.gz or CASE.png, for the grid; repeat for "
        "several",
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite a comparison that is in DIR"
    )
    parser.add_argument(
        "--json", action="store_true", help="print comparison.json instead of a table"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no remarks")


def run(args: argparse.Namespace) -> int:
    """Compare, write and draw; 0 if all went well."""
    from samtune.evaluation.comparison import ComparisonSettings, compare_tables
    from samtune.evaluation.comparison_files import (
        COMPANION,
        format_performance,
        remarks,
        write_comparison,
    )
    from samtune.evaluation.score_table import read_score_table

    if args.resamples < 1:
        raise ValueError(f"--resamples is {args.resamples}, expected at least 1")
    if (args.out / COMPANION).exists() and not args.force:
        raise FileExistsError(f"{args.out} holds a comparison; overwrite it with --force")
    names = method_names(args.tables, args.names)
    tables = [read_score_table(path, name) for path, name in zip(args.tables, names, strict=True)]
    patients, source = _patients(args.patients, tables)
    settings = ComparisonSettings(
        metrics=None if args.metric is None else tuple(args.metric),
        seed=args.seed,
        resamples=args.resamples,
    )
    grid = _plan_grid(args, tables)  # before the work: a wrong folder is said at once
    comparison = compare_tables(tables, patients=patients, settings=settings)
    written = []
    notes: dict[str, Any] = {} if source is None else {"patients_from": str(source)}
    if grid is not None:
        manifest, picked, about = grid
        notes |= about
        written += _draw_grid(args, tables, manifest, picked)
    if args.figures:
        written += _draw_figures(comparison, args.out)
    written = [*write_comparison(comparison, args.out, notes=notes), *written]
    if args.json:
        print((args.out / COMPANION).read_text(encoding="utf-8"), end="")
    else:
        print(format_performance(comparison))
        print(_format_pairs(comparison))
    if not args.quiet:
        for remark in remarks(tables):
            print(remark, file=sys.stderr)
        if args.patients is None and source is not None:
            number = len(set(patients or ()))
            print(f"{number} patients, as {source} names them", file=sys.stderr)
        print(f"wrote {', '.join(map(str, written))}", file=sys.stderr)
    return 0


def _patients(
    given: Path | None, tables: "Sequence[ScoreTable]"
) -> tuple[tuple[str, ...] | None, Path | None]:
    """The patient of each case, and which file says so; None if none does."""
    from samtune.evaluation.case_patients import (
        patients_of,
        patients_of_companions,
        read_patients,
    )
    from samtune.evaluation.comparison import check_comparable

    if given is not None:
        return patients_of(tables[0].cases, read_patients(given), given), given
    check_comparable(tables)  # of the same cases
    found = patients_of_companions({one.path: one.companion for one in tables}, tables[0].cases)
    return (None, None) if found is None else (found[1], found[0].with_suffix(".json"))


def method_names(paths: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    """The methods' names: as given, or what tells the files apart.

    Raises:
        ValueError: not one name a table.
    """
    if names is not None:
        if len(names) != len(paths):
            raise ValueError(f"{len(names)} names for {len(paths)} tables, expected one each")
        return list(names)
    choices: tuple[list[str], ...] = (
        [path.stem for path in paths],
        [path.resolve().parent.name for path in paths],
    )
    for found in choices:
        if len(set(found)) == len(found):
            return found
    return [str(path.with_suffix("")) for path in paths]


def _plan_grid(
    args: argparse.Namespace, tables: "Sequence[ScoreTable]"
) -> "tuple[Manifest, dict[str, str], dict[str, Any]] | None":
    """Slices, the cases to show, and what the JSON says of them; None if no grid was asked for."""
    if args.slices is None and args.pred is None:
        return None
    if args.slices is None or args.pred is None:
        raise ValueError("the grid needs both --slices and --pred")
    from samtune.evaluation.comparison import check_comparable
    from samtune.evaluation.pick_cases import RULE, pick_cases
    from samtune.preprocessing.manifest import load_manifest
    from samtune.training.comparison_grid import SLICE_RULE, check_cases

    check_comparable(tables)
    methods = [table.method for table in tables]
    for name, folder in args.pred:
        if name not in methods:
            raise ValueError(f"--pred {name}={folder}: expected a NAME of {', '.join(methods)}")
    picked = pick_cases(tables)
    manifest = load_manifest(args.slices)
    check_cases(manifest, picked.values())
    titles = "Dice of the case, mean over classes"
    return (
        manifest,
        picked,
        {"grid": {"rule": RULE, "slice": SLICE_RULE, "titles": titles, "cases": picked}},
    )


def _draw_grid(
    args: argparse.Namespace,
    tables: "Sequence[ScoreTable]",
    manifest: "Manifest",
    picked: dict[str, str],
) -> list[Path]:
    from samtune.evaluation.pick_cases import case_scores
    from samtune.training.comparison_grid import draw_comparison_grid

    preds = dict(args.pred)
    in_order = {table.method: preds[table.method] for table in tables if table.method in preds}
    scores = {table.method: case_scores([table]) for table in tables}
    return draw_comparison_grid(
        manifest,
        in_order,
        picked,
        args.out / "grid.png",
        scores=scores,
        formats=("svg", "pdf") if args.figures and find_spec("matplotlib") else (),
    )


def _draw_figures(comparison: "Comparison", out: Path) -> list[Path]:
    from samtune.evaluation.comparison_figures import draw_comparison

    try:
        return draw_comparison(comparison, out)
    except ImportError as error:  # the numbers don't need it
        print(f"no figures: {error}", file=sys.stderr)
        return []


def _format_pairs(comparison: "Comparison") -> str:
    """A line a test of the first metric: difference, interval, corrected p; few enough to read."""
    metric = (comparison.settings.metrics or ("dice",))[0]
    rows = [row for row in comparison.pairs if row.metric == metric]
    title = f"{metric}, paired (p by Wilcoxon, Holm over {comparison.num_tests} tests):"
    if len(rows) > MAX_LINES:
        first = comparison.tables[0].method
        rows = [row for row in rows if row.method_a == first]
        title = title[:-1] + f"; against {first}, all others are in comparison.csv:"
    lines = [title]
    for row in rows:
        found = row.result
        if not found.n:
            lines.append(f"  {row.name}: {row.method_b} - {row.method_a}: no case has both")
            continue
        lines.append(
            f"  {row.name}: {row.method_b} - {row.method_a} = {found.mean_difference:+.3f} "
            f"[{found.low:+.3f}, {found.high:+.3f}], p {found.p_holm:.3g}, n {found.n}"
        )
    return "\n".join(lines)


def _name_and_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not name or not equals or not folder:
        raise argparse.ArgumentTypeError(f"'{text}', expected NAME=DIR")
    return name, Path(folder)
