"""Raw scans as a dataset of slices, through the intensity step and slicer of training."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.label_files import label_name
from samtune.preprocessing.neighbours import check_distance, stacked_slice
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.scans import Given, find_scans
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slicing import CaseGeometry
from samtune.preprocessing.volumes import Grid, read_grid, read_image
from samtune.training.own_manifest import OWN

logger = logging.getLogger(__name__)
Item = dict[Any, Any]


class OverwritesScanError(ValueError):
    """A label file would take the place of a scan."""


class RawSlices(Dataset[Item]):
    """All slices of some scans, scan after scan; one volume is in memory at a time.

    Args:
        data: files, folders of them, or DICOM folders; or scans by name, see
            :func:`samtune.preprocessing.scans.find_scans`.
        intensity: of the training data, see ``run.json``.
        axis: RAS axis that the training data was cut along; ``None``: the largest spacing's.
        transform: into the model's frame.
        out: folder of the label files, named like the images.
        slicing: of the training data, see ``run.json``. Its crop is left out: there is no label to
            crop around.
        neighbours: distance of the slices that are first and third channel, see
            :class:`samtune.preprocessing.neighbours.StackNeighboursd`; 0: none.
        file_format: of the label files, see :func:`samtune.preprocessing.label_files.label_name`;
            ``None``: that of each image.
        frame: which volume of 4D files and films, from 0; needed where there are several.
        series: which series of DICOM folders: description, number or SeriesInstanceUID; needed
            where there are several.

    Raises:
        FileNotFoundError, ValueError: a file is missing or unreadable, two have one name, or an
            output is one of the inputs.
    """

    def __init__(
        self,
        data: Given,
        *,
        intensity: Mapping[str, Any],
        axis: int | None,
        transform: Callable[[Item], Item],
        out: str | Path,
        slicing: Mapping[str, Any] | None = None,
        neighbours: int = 0,
        file_format: str | None = None,
        frame: int | None = None,
        series: str | None = None,
    ) -> None:
        if intensity.get("mode") == OWN:
            msg = (
                "the run was trained on a dataset of its own: how a scan becomes such an image is "
                "not known here; predict in Python, with load_run(DIR).network()"
            )
            raise ValueError(msg)
        self.paths = find_scans(data)
        self.intensity = Intensity.from_dict(dict(intensity))
        trained = Slicing.from_dict(slicing or {}, axis=axis)
        if trained.crop_margin is not None:
            logger.info(
                "trained on slices cropped to %g %s round the label; whole slices are predicted",
                trained.crop_margin,
                trained.crop_unit,
            )
        self.slicing = trained.uncropped()
        self.neighbours = check_distance(neighbours)
        self.transform = transform
        self.out = Path(out)
        # headers only: a file that can't be read is known before the first prediction
        self.frame, self.series = frame, series
        self._grids = {
            case: read_grid(path, frame=frame, series=series) for case, path in self.paths.items()
        }
        self._names = {
            case: label_name(self.paths[case], num_slices=grid.shape[2], file_format=file_format)
            for case, grid in self._grids.items()
        }
        self._refuse_overwriting()
        self._geometries = {
            case: self.slicing.lay(CaseGeometry.of(grid, case=case, axis=axis))
            for case, grid in self._grids.items()
        }
        self._index = [
            (case, number)
            for case, geometry in self._geometries.items()
            for number in range(geometry.slices_shape[0] * geometry.num_tiles)
        ]
        self._is_blended = trained.tile_size is not None or trained.spacing_mm is not None
        self._loaded: tuple[str, np.ndarray[Any, Any]] | None = None

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, position: int) -> Item:
        case, number = self._index[position]
        if self._loaded is None or self._loaded[0] != case:
            volume = read_image(self.paths[case], frame=self.frame, series=self.series)
            slices, _ = prepare_case(
                volume, case=case, intensity=self.intensity, slicing=self.slicing
            )
            self._loaded = (case, slices)
        num_tiles = self._geometries[case].num_tiles
        index, tile = divmod(number, num_tiles)
        image = stacked_slice(
            self._loaded[1], number, num_tiles=num_tiles, distance=self.neighbours
        )
        item = {
            "case": case,
            "index": index,
            "image": image,
            "size_hw": np.array(image.shape[1:], dtype=np.int64),
        }
        return self.transform({**item, "tile": tile} if self._is_blended else item)

    def grid(self, case: str) -> Grid:
        """Voxel grid of the case's file."""
        return self._grids[case]

    def geometry(self, case: str) -> CaseGeometry:
        """How the case is cut."""
        return self._geometries[case]

    def output(self, case: str) -> Path:
        """Where the case's label file goes."""
        return self.out / self._names[case]

    def _refuse_overwriting(self) -> None:
        scans = {path.resolve(): path for path in self.paths.values()}
        for case in self.paths:
            scan = scans.get(self.output(case).resolve())
            if scan is not None:
                msg = (
                    f"'{scan}' would be overwritten by its prediction; choose another output folder"
                )
                raise OverwritesScanError(msg)
