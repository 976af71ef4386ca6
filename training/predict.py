"""Segment raw scans with trained runs, from Python: what ``inference.yaml`` does, and more."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader
from tqdm import tqdm

from samtune.preprocessing.probability_files import PROBABILITY_FORMATS
from samtune.preprocessing.scans import find_scans
from samtune.preprocessing.source_hash import source_sha256
from samtune.training.averaging import check_flips
from samtune.training.case_stream import CaseStream
from samtune.training.case_writers import CaseLabelWriter, probabilities_path
from samtune.training.device import pick_device
from samtune.training.ensemble import adapter_hashes, batch_keys, load_averaged, open_runs
from samtune.training.errors import quiet_end
from samtune.training.features import PrepareSlices
from samtune.training.planes import AddedProbabilities, Cut, cut_alike
from samtune.training.postprocess import load_postprocessing
from samtune.training.prediction_record import PredictionRecord, drop_companions
from samtune.training.quality import (
    FAILED,
    OK,
    QC_FILE,
    STATISTICS_FILE,
    QualityRow,
    QualityTable,
    write_statistics,
)
from samtune.training.raw_slices import OverwritesScanError, RawSlices
from samtune.training.reading import ReadSlicesd

logger = logging.getLogger(__name__)


class FailedScansError(ValueError):
    """Some scans could not be segmented; the others were.

    Attributes:
        reasons: name of the scan to what was wrong.
        written: label files of the others.
    """

    def __init__(self, reasons: Mapping[str, str], written: Sequence[Path], number: int) -> None:
        self.reasons = dict(reasons)
        self.written = list(written)
        listed = "; ".join(f"{case}: {reason}" for case, reason in reasons.items())
        super().__init__(f"{len(reasons)} of {number} scans failed: {listed}")


def predict(
    run: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    adapter: str = "best",
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    batch_size: int = 4,
    file_format: str | None = None,
    frame: int | None = None,
    series: str | None = None,
    progress: bool | None = None,
    ensemble: str | Path | Sequence[str | Path] = (),
    flips: str = "none",
    postprocess: bool = True,
    probabilities: str | None = None,
    statistics: bool = False,
    resume: bool = False,
) -> list[Path]:
    """Segment scans; each label file has its scan's name, shape, affine and header codes.

    Beside them ``qc.csv`` has a row a scan and ``predictions.json`` what they were made with. What
    an earlier call left there and this one makes untrue is removed: ``statistics.csv``, and the
    probabilities of the scans that are predicted anew.

    Args:
        run: folder of a training run, or of the folds of a cross-validation.
        images: file, folder of files or of a DICOM series, or several.
        out: folder of the label files; existing ones are replaced.
        adapter: ``best`` or ``last``.
        checkpoint: base weights; ``None``: those of the run.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``.
        batch_size: slices at a time.
        file_format: of the label files: nii.gz, nii, nrrd, mha or png; ``None``: each scan's own.
        frame: which volume of 4D files and films, from 0.
        series: which series of DICOM folders: description, number or SeriesInstanceUID.
        progress: show a bar; ``None``: when stderr is a terminal.
        ensemble: further runs; the mean of all probabilities is taken. They may cut a scan along
            other axes.
        flips: mean over flipped slices too: ``none``, ``h``, ``v`` or ``hv``.
        postprocess: apply what ``samtune postprocess`` chose, if it did.
        probabilities: write those of all channels too, ``nii.gz`` or ``npz``.
        statistics: write ``statistics.csv``, ml a class and scan.
        resume: leave out scans that are done, and keep their rows.

    Returns:
        The label files, those done before included, by the order of the scans.

    Raises:
        FileNotFoundError, ValueError: a run or a single scan is missing or unreadable; or a run was
            trained with prompts and can't segment without.
        FailedScansError: of several scans some failed; the others are written.
        FileExistsError: what is to be resumed was made otherwise.
    """
    if probabilities not in (None, *PROBABILITY_FORMATS):
        msg = f"probabilities must be {' or '.join(PROBABILITY_FORMATS)}, got '{probabilities}'"
        raise ValueError(msg)
    runs = open_runs(run, ensemble, planes=True)
    for one in runs:
        one.check_prompt_free()
    trained, target = runs[0], pick_device(device)
    cuts = [
        Cut(members, load_averaged(members, adapter, checkpoint, flips).to(target))
        for members in cut_alike(runs)
    ]
    steps = load_postprocessing(runs, adapter, use=postprocess)
    scans = find_scans(images)
    sources, reasons = _open_scans(
        cuts,
        scans,
        out=out,
        file_format=file_format,
        frame=frame,
        series=series,
    )
    classes, names = trained.task.classes, trained.task.channel_names
    hashes = adapter_hashes(runs, adapter)
    settings = {
        "adapters": list(hashes.values()),  # not the folders: a path may be spelt in two ways
        "adapter": adapter,
        "flips": check_flips(flips),
        "postprocess": None if steps is None else steps.describe(classes),
        "probabilities": probabilities,
        "channels": names if trained.task.channels else ["background", *names],
        "classes": {str(value): name for value, name in classes.items()},
        "format": file_format,
        "frame": frame,
        "series": series,
        **({"cuts": [cut.describe() for cut in cuts]} if len(cuts) > 1 else {}),
    }
    record = PredictionRecord(Path(out), settings, runs=list(hashes), resume=resume)
    table = QualityTable(Path(out) / QC_FILE, list(classes.values()), keep=resume)
    # at once: what lay there before is of other predictions
    table.write()
    record.write()
    drop_companions(Path(out), STATISTICS_FILE)
    reader = ReadSlicesd(
        trained.task.class_values,
        trained.task.paint,
        probabilities=probabilities is not None or len(cuts) > 1,
    )
    written: dict[str, Path] = {}
    show = sys.stderr.isatty() if progress is None else progress
    num_slices = sum(len(part) for parts in sources.values() for part in parts)
    with tqdm(total=num_slices, desc="predicting", unit="slice", disable=not show) as bar:
        for case in scans:
            if case not in sources:
                table.add(QualityRow(case, FAILED, reasons[case]))
                continue
            parts = sources.pop(case)  # with the volumes they hold
            path, num = parts[0].output(case), sum(len(part) for part in parts)
            extra = None if probabilities is None else probabilities_path(path, case, probabilities)
            sha256 = source_sha256([scans[case]])
            if _is_done(case, sha256, record, table, path, extra):
                written[case] = path
                bar.update(num)
                continue
            writer = CaseLabelWriter(
                parts[0],
                steps,
                classes=classes,
                probabilities=probabilities,
                channels=settings["channels"],  # type: ignore[arg-type]
            )
            try:
                _segment(case, cuts, parts, writer, reader, target, batch_size, bar.update)
            except Exception as error:  # whatever it is, the next scan may do
                if len(scans) == 1:
                    raise
                logger.debug("scan '%s' failed", case, exc_info=True)
                reasons[case] = f"{error}" or type(error).__name__
                table.add(QualityRow(case, FAILED, reasons[case]))
                continue
            written[case] = path
            table.add(writer.rows[0])
            record.add(case, sha256)
    if statistics:
        write_statistics(Path(out) / STATISTICS_FILE, table, classes)
    record.write(complete=not reasons)
    if reasons:
        raise FailedScansError(reasons, list(written.values()), len(scans))
    return list(written.values())


def _open_scans(
    cuts: Sequence[Cut], scans: Mapping[str, Path], **options: Any
) -> tuple[dict[str, list[RawSlices]], dict[str, str]]:
    """Slices of each scan by cut, and why a scan has none; only headers are read.

    Raises:
        ValueError: a scan would be overwritten, or the only one can't be read.
    """
    sources: dict[str, list[RawSlices]] = {}
    reasons: dict[str, str] = {}
    inputs = {path.resolve(): path for path in scans.values()}
    for case, path in scans.items():
        try:
            parts = [cut.slices({case: path}, **options) for cut in cuts]
        except OverwritesScanError:
            raise
        except (ValueError, OSError) as error:
            if len(scans) == 1:
                raise
            reasons[case] = str(error)
            continue
        overwritten = inputs.get(parts[0].output(case).resolve())
        if overwritten is not None:
            msg = (
                f"'{overwritten}' would be overwritten by the prediction of '{path}'; choose "
                "another output folder"
            )
            raise OverwritesScanError(msg)
        sources[case] = parts
    return sources, reasons


def _is_done(
    case: str,
    sha256: str,
    record: PredictionRecord,
    table: QualityTable,
    path: Path,
    extra: Path | None,
) -> bool:
    row = table.rows.get(case)
    files = path.is_file() and (extra is None or extra.is_file())
    return record.done.get(case) == sha256 and row is not None and row.status == OK and files


def _segment(
    case: str,
    cuts: Sequence[Cut],
    parts: Sequence[RawSlices],
    writer: CaseLabelWriter,
    reader: ReadSlicesd,
    *how: Any,
) -> None:
    """One scan, by the mean of all cuts on its grid where there are several."""
    if len(cuts) == 1:
        _run(cuts[0].network, parts[0], writer, reader, *how)
        return
    shape = (*parts[0].grid(case).shape, len(writer.channels))
    total, weight = np.zeros(shape, np.float32), 0
    for cut, part in zip(cuts, parts, strict=True):
        added = AddedProbabilities(total, part.geometry(case), len(cut.runs))
        _run(cut.network, part, added, reader, *how)
        weight += len(cut.runs)
    total /= weight
    label, confidence = reader.decide(total)
    writer.write(case, label, confidence, total)


def _run(
    network: torch.nn.Module,
    source: RawSlices,
    stream: CaseStream,
    reader: ReadSlicesd,
    device: torch.device,
    batch_size: int,
    advance: Callable[[int], object],
) -> None:
    """One scan through MONAI's evaluator."""
    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(source, batch_size=batch_size),
        prepare_batch=PrepareSlices(keys=batch_keys(network)),
        network=network,
        postprocessing=reader,
        val_handlers=[stream],
    )
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: advance(len(engine.state.batch))
    )
    with quiet_end():
        evaluator.run()
