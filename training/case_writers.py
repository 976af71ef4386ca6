"""What becomes of a finished case: a row of metrics, or a label file in the scan's own geometry."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from ignite.engine import Engine

from samtune.evaluation.case_patients import patients_of, read_patients
from samtune.evaluation.diagonals import grid_diagonal, infinite_cases
from samtune.evaluation.metrics_csv import MetricsCsv
from samtune.evaluation.regions import as_tolerances, with_options
from samtune.evaluation.score_case import check_ignored, region_mask, score_case_masks
from samtune.evaluation.summary import format_summary, summarise, write_summary
from samtune.evaluation.surface_scores import DEFAULT_DEFINITION, Definition, check_definition
from samtune.evaluation.table import Unit
from samtune.preprocessing.label_files import is_picture, write_label_file
from samtune.preprocessing.manifest import CaseRecord, Manifest
from samtune.preprocessing.probability_files import PROBABILITY_FORMATS, write_probabilities
from samtune.preprocessing.slicing import CaseGeometry
from samtune.preprocessing.volumes import Grid, write_label
from samtune.training.case_stream import Array, CaseStream, assemble, reference_volume
from samtune.training.postprocess import Postprocessing
from samtune.training.prediction_record import RECORD_FILE, drop_companions
from samtune.training.quality import QC_FILE, STATISTICS_FILE, QualityRow, quality_row
from samtune.training.raw_slices import RawSlices
from samtune.training.reading import CONFIDENCE, LABEL, PROBABILITIES
from samtune.training.task import Task

logger = logging.getLogger(__name__)


class CaseMetricsWriter(CaseStream):
    """Scores each case of a split on its own grid; writes table, companion and summary.

    ``pred`` is a class map ``h w`` a slice, or ``p h w`` masks that may overlap, one a scored
    region. Cases of the split that no slice came from are scored as predicted empty. Numbers and
    options are those of ``samtune evaluate``; pictures without a pixel size are scored in pixels.

    Args:
        manifest, split, task: what is scored.
        out: the table, ``.csv``.
        tolerances_mm: of the Surface Dice.
        class_tolerances_mm: name of a class or region -> its tolerances in place of these.
        cldice: names of the classes and regions whose centrelines are scored too.
        definition: of the surface metrics, ``surface-distance`` or ``monai``.
        ignore_label: voxels of this value in the reference are scored in neither mask; ``auto``:
            what the slices were made with.
        patients: whose cases the summary's intervals draw together: case -> patient, or a table
            or manifest with them; None: what the slices were made with.
        protocol: what stands in the companion file about how the masks came about.
        pred_dir: where to write the predictions as label files too, ``CASE.nii.gz``, or
            ``CASE.png`` if all cases are single pictures; of overlapping class masks the later
            class is kept there, the scores are those of the masks.
        postprocess: what class maps go through before they are scored and written.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        task: Task,
        out: str | Path,
        *,
        tolerances_mm: Sequence[float] | float = (1.0,),
        class_tolerances_mm: Mapping[str, Sequence[float] | float] | None = None,
        cldice: Sequence[str] | str = (),
        definition: Definition = DEFAULT_DEFINITION,
        ignore_label: int | Literal["auto"] | None = "auto",
        patients: Mapping[str, str] | str | Path | None = None,
        protocol: Mapping[str, Any] | None = None,
        pred_dir: str | Path | None = None,
        postprocess: Postprocessing | None = None,
    ) -> None:
        super().__init__()
        self.postprocess = postprocess
        self.manifest = manifest
        self.cases = sorted({record.case for record in manifest.select(split)})
        self.task = task
        self.regions = with_options(task.scored(), tolerances_mm=class_tolerances_mm, cldice=cldice)
        self.definition = check_definition(definition)
        self.ignored = {
            case: manifest.ignore_label(case) if ignore_label == "auto" else ignore_label
            for case in self.cases
        }
        for value in set(self.ignored.values()):
            check_ignored(value, self.regions)
        self.patients = _patients(manifest, self.cases, patients)
        unsized = [_is_unsized(manifest.cases[case]) for case in self.cases]
        self.unit: Unit = "px" if unsized and all(unsized) else "mm"
        # a folder with one volume counts as one of volumes: all or none
        self._as_pictures = all(_flat_axis(manifest.cases[case]) is not None for case in self.cases)
        self.out = Path(out)
        self.tolerances_mm = as_tolerances(tolerances_mm)
        self.protocol = {"split": split, "num_cases": len(self.cases), **(protocol or {})}
        self.pred_dir = None if pred_dir is None else Path(pred_dir)
        self._table: MetricsCsv | None = None
        self._pending: set[str] = set()

    def started(self, engine: Engine) -> None:
        """Start the table anew."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._pending = set(self.cases)
        self._table = MetricsCsv(
            self.out,
            regions=self.regions,
            tolerances_mm=self.tolerances_mm,
            definition=self.definition,
            unit=self.unit,
            settings=self._settings(),
            notes={
                "protocol": self.protocol,
                **({} if self.patients is None else {"patients": self.patients}),
            },
            force=True,
        )

    def geometry(self, case: str) -> CaseGeometry:
        """How the case is cut."""
        return self.manifest.cases[case].geometry

    def finish(self, case: str, slices: Mapping[int, Array]) -> None:
        """Score a case."""
        assert self._table is not None
        ignored = self.ignored[case]
        label = reference_volume(self.manifest, case, ignore_label=ignored)
        masks, joint = self._masks(slices, case, label), self.manifest.joint_values(case)
        pairs = [
            (region, mask, region_mask(label, region))
            for region, mask in zip(self.regions, masks, strict=True)
        ]
        if joint is not None:  # what nobody labelled is not scored: as if it were in neither mask
            pairs = [
                (region, mask, truth)
                if set(region.labels) <= set(joint.values())
                else (region, np.zeros_like(mask), np.zeros_like(truth))
                for region, mask, truth in pairs
            ]
        if ignored is not None:
            is_judged = label != ignored
            pairs = [(region, mask & is_judged, truth) for region, mask, truth in pairs]
        flat = _flat_axis(self.manifest.cases[case])
        if flat is not None:  # with three axes, both sides of its only slice would be surface
            pairs = [(one, mask.squeeze(flat), truth.squeeze(flat)) for one, mask, truth in pairs]
        rows = score_case_masks(
            case, pairs, self._grid(case)[1], self.tolerances_mm, definition=self.definition
        )
        self._table.add(rows)
        self._pending.discard(case)

    def _masks(self, slices: Mapping[int, Array], case: str, label: Array) -> list[Array]:
        geometry = self.manifest.cases[case].geometry
        if slices and next(iter(slices.values())).ndim == 3:
            masks = [
                assemble({k: v[p] for k, v in slices.items()}, geometry, bool)
                for p in range(len(self.regions))
            ]
            pred = np.zeros_like(label)
            for region, mask in zip(self.regions, masks, strict=True):
                if len(region.labels) == 1:
                    pred[mask] = region.labels[0]
            self._write_prediction(case, pred)
            return masks
        pred = assemble(slices, geometry, label.dtype)
        if self.postprocess is not None:
            pred = self.postprocess(pred, geometry.spacing)
        self._write_prediction(case, pred)
        return [region_mask(pred, region) for region in self.regions]

    def _write_prediction(self, case: str, pred: Array) -> None:
        if self.pred_dir is None:
            return
        grid = grid_of(self.manifest.cases[case].geometry)
        volume = self.pred_dir / f"{case}.nii.gz"
        if not self._as_pictures:
            write_label(volume, pred, like=grid)
            return
        picture = self.pred_dir / f"{case}.png"
        write_label_file(picture, pred, like=replace(grid, path=picture))
        volume.unlink(missing_ok=True)  # of an earlier version; it would be taken for the case

    def ended(self, engine: Engine) -> None:
        """Score what was never seen, sort the table, write the summary."""
        assert self._table is not None
        for case in sorted(self._pending):
            self.finish(case, {})
        diagonals = {
            case: grid_diagonal(*self._grid(case)) for case in infinite_cases(self._table.rows)
        }
        rows = self._table.finish(notes={"diagonals": diagonals})
        summary = summarise(rows, patients=self.patients, diagonals=diagonals)
        write_summary(self.out.with_name(f"{self.out.stem}_summary.csv"), summary)
        engine.state.metrics.update({f"dice_{row.name}": row.dice_mean for row in summary})
        logger.info("%s\n%s", self.out, format_summary(summary))

    def _settings(self) -> dict[str, Any]:
        """What the numbers depend on beside the table's own settings."""
        values = sorted({value for value in self.ignored.values() if value is not None})
        return {} if not values else {"ignore_label": values[0] if len(values) == 1 else values}

    def _grid(self, case: str) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
        """Shape and spacing (None: in pixels) on which a case is scored."""
        record = self.manifest.cases[case]
        shape, spacing = record.geometry.shape, record.geometry.spacing
        kept = [axis for axis in range(3) if axis != _flat_axis(record)]
        steps = None if self.unit == "px" else tuple(spacing[axis] for axis in kept)
        return tuple(shape[axis] for axis in kept), steps


def _patients(
    manifest: Manifest, cases: Sequence[str], given: Mapping[str, str] | str | Path | None
) -> dict[str, str] | None:
    """Case to patient; None: each case is its own."""
    if given is None:
        known = manifest.patients()
        if not known.keys() & set(cases):
            return None
        return {case: known.get(case, f"case {case}") for case in cases}
    table = read_patients(given) if isinstance(given, str | Path) else given
    source = given if isinstance(given, str | Path) else "patients"
    return dict(zip(cases, patients_of(cases, table, source), strict=True))


def _is_unsized(record: CaseRecord) -> bool:
    """Whether the source is a picture that doesn't say how large a pixel is."""
    return is_picture(Path(record.image_name)) and set(record.geometry.spacing) == {1.0}


def _flat_axis(record: CaseRecord) -> int | None:
    """The page axis of a single picture; None for a volume, of one slice too."""
    is_single = is_picture(Path(record.image_name)) and record.geometry.shape[2] == 1
    return 2 if is_single else None


class CaseLabelWriter(CaseStream):
    """Writes each case's class map as a label file on the grid of its image.

    ``pred`` is a class map ``h w`` a slice, or what
    :class:`~samtune.training.reading.ReadSlicesd` makes of it.

    Args:
        sources: case to the image's grid, geometry and output file; see ``RawSlices``.
        postprocess: what class maps go through before they are written.
        classes: class value to name; with them ``rows`` has a
            :class:`~samtune.training.quality.QualityRow` of each case.
        probabilities: format of files of the channels' probabilities; ``None``: none.
        channels: names of these.
    """

    def __init__(
        self,
        sources: RawSlices,
        postprocess: Postprocessing | None = None,
        *,
        classes: Mapping[int, str] | None = None,
        probabilities: str | None = None,
        channels: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.sources = sources
        self.postprocess = postprocess
        self.classes = classes
        self.probabilities = probabilities
        self.channels = list(channels)
        self.written: list[Path] = []
        self.rows: list[QualityRow] = []

    def started(self, engine: Engine) -> None:
        """Drop the tables of a folder's earlier predictions where none are kept of these."""
        if self.classes is None:
            drop_companions(self.sources.out, RECORD_FILE, QC_FILE, STATISTICS_FILE)

    def geometry(self, case: str) -> CaseGeometry:
        """How the case is cut."""
        return self.sources.geometry(case)

    def finish(self, case: str, slices: Mapping[int, Array]) -> None:
        """Put the slices together and write the files."""
        geometry = self.sources.geometry(case)
        volume = assemble(slices, geometry, next(iter(slices.values())).dtype)
        if volume.dtype.names is None:
            self.write(case, volume)
            return
        probabilities = None if self.probabilities is None else volume[PROBABILITIES]
        self.write(case, volume[LABEL], volume[CONFIDENCE], probabilities)

    def write(
        self,
        case: str,
        label: Array,
        confidence: Array | None = None,
        probabilities: Array | None = None,
    ) -> None:
        """Write the files of a case; the label last, so that where it is, all is.

        Probabilities of an earlier prediction of the case are removed.

        Args:
            case: its name.
            label, confidence: ``i j k`` on its grid.
            probabilities: ``i j k c``, needed where they are to be written.
        """
        path, grid = self.sources.output(case), self.sources.grid(case)
        if self.postprocess is not None:
            label = self.postprocess(label, grid.spacing)
        path.parent.mkdir(parents=True, exist_ok=True)
        for file_format in PROBABILITY_FORMATS:  # of another mask than the one to come
            probabilities_path(path, case, file_format).unlink(missing_ok=True)
        if self.probabilities is not None and probabilities is not None:
            write_probabilities(
                probabilities_path(path, case, self.probabilities),
                probabilities,
                self.channels,
                like=grid,
            )
        write_label_file(path, label, like=grid)
        self.written.append(path)
        if self.classes is not None:
            self.rows.append(
                quality_row(case, path.name, label, grid.spacing, self.classes, confidence)
            )
        logger.info("wrote %s", path)


def probabilities_path(label: Path, case: str, file_format: str) -> Path:
    """Where a case's probabilities go: beside its label file's folder, in one of their own."""
    return label.parent / "probabilities" / f"{case}.{file_format}"


def grid_of(geometry: CaseGeometry) -> Grid:
    """A NIfTI grid for a case whose source file isn't at hand: affine as sform and qform, mm."""
    header = nib.Nifti1Header()
    header.set_data_shape(geometry.shape)
    header.set_sform(geometry.affine, code=1)
    header.set_qform(geometry.affine, code=1, strip_shears=True)
    header.set_xyzt_units("mm")
    name = Path(f"{geometry.case}.nii.gz")
    return Grid(name, geometry.shape, geometry.affine, geometry.spacing, header)
