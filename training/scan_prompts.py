"""Segment slices of raw scans by boxes and points, with a trained run or the untouched model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samtune.evaluation.overlay import overlay_grid
from samtune.networks import SamSegmenter, build_sam
from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.label_files import is_picture
from samtune.preprocessing.model_frame import box_to_frame, logits_to_slice, points_to_frame
from samtune.preprocessing.scans import Given, find_scans
from samtune.preprocessing.slice_transforms import ToFramed
from samtune.preprocessing.voxel_prompts import VoxelPlane, VoxelPrompt
from samtune.training.case_stream import Array
from samtune.training.case_writers import CaseLabelWriter
from samtune.training.device import pick_device
from samtune.training.prediction_record import RECORD_FILE, drop_companions
from samtune.training.quality import QC_FILE, STATISTICS_FILE, QualityTable
from samtune.training.raw_slices import RawSlices
from samtune.training.reading import ReadSlicesd
from samtune.training.run_folder import load_run

NO_OBJECT = -1e4  # logit of a class that nothing was prompted for


@dataclass(frozen=True)
class PromptedModel:
    """A network that takes prompts, and how scans become its slices.

    Attributes:
        network: in evaluation mode, on its device.
        intensity, axis, slicing, neighbours: as for :class:`RawSlices`.
        classes: class value to name; ``None``: any class, as of the untouched model.
    """

    network: SamSegmenter
    intensity: Mapping[str, Any]
    axis: int | None = None
    slicing: Mapping[str, Any] | None = None
    neighbours: int = 0
    classes: dict[int, str] | None = None

    def open(self, image: Given, out: str | Path, file_format: str | None = None) -> RawSlices:
        """The slices of a scan.

        Raises:
            FileNotFoundError, ValueError: see :class:`RawSlices`.
        """
        return RawSlices(
            image,
            intensity=self.intensity,
            axis=self.axis,
            slicing=self.slicing,
            neighbours=self.neighbours,
            transform=lambda item: item,  # the frame comes later: the picture is shown too
            out=out,
            file_format=file_format,
        )


def model_of_run(
    run: str | Path,
    *,
    adapter: str = "best",
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
) -> PromptedModel:
    """A trained run as a model for prompts.

    Raises:
        FileNotFoundError, ValueError: see :meth:`TrainedRun.network`.
    """
    trained = load_run(run)
    return PromptedModel(
        trained.network(adapter, checkpoint).to(pick_device(device)),
        trained.intensity,
        trained.axis,
        trained.slicing,
        trained.neighbours,
        dict(trained.task.classes),
    )


def untouched_model(
    base: str | Path = "lite_medsam",
    *,
    modality: str = "auto",
    image_size: int | None = None,
    device: str | torch.device = "auto",
) -> PromptedModel:
    """A published checkpoint as it is.

    Args:
        base: ``lite_medsam`` (packaged), a name of ``samtune weights list``, or a file.
        modality: of the scans, see :meth:`Intensity.for_modality`.
        image_size: pixels; ``None``: the size it was trained at.
        device: as ever.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint or modality.
    """
    checkpoint = None if str(base) == "lite_medsam" else base
    sam = build_sam("auto" if checkpoint else "lite_medsam", checkpoint, image_size)
    network = SamSegmenter(sam, num_classes=1).eval().to(pick_device(device))
    return PromptedModel(network, Intensity.for_modality(modality).to_dict())


class ScanPrompter:
    """One scan; the encoder runs once a slice for all its prompts that follow each other.

    Args:
        model: the network and how the scan is cut.
        image: the scan.
        out: folder of its label file.
        file_format: of that.

    Raises:
        FileNotFoundError, ValueError: it is unreadable, several scans, or cut into tiles.
    """

    def __init__(
        self,
        model: PromptedModel,
        image: Given,
        out: str | Path = "predictions",
        file_format: str | None = None,
    ) -> None:
        self.model = model
        self.source = model.open(image, out, file_format)
        if len(self.source.paths) != 1:
            msg = f"'{image}' has {len(self.source.paths)} scans, prompts are of one"
            raise ValueError(msg)
        ((self.case, path),) = self.source.paths.items()
        self.geometry = self.source.geometry(self.case)
        if self.geometry.num_tiles > 1:
            msg = f"'{path}' is cut into tiles, which prompts can't be given for"
            raise ValueError(msg)
        self.plane = VoxelPlane(self.geometry, is_picture=is_picture(path))
        network = model.network
        self._frame = ToFramed(network.image_size, network.normalization)
        self._embedded: tuple[int, torch.Tensor] | None = None

    def picture(self, slice_index: int) -> Array:
        """The slice as the network gets it, ``y x [3]`` uint8."""
        image = torch.as_tensor(self._item(slice_index)["image"]).numpy()
        if image.dtype != np.uint8:  # 16 bits
            image = (image / 257).round().astype(np.uint8)
        image = image[image.shape[0] // 2] if self.model.neighbours else image
        flat = image if image.ndim == 2 else np.moveaxis(image, 0, 2)
        if flat.ndim == 3 and flat.shape[2] == 1:
            flat = flat[:, :, 0]
        if self.geometry.plane is not None:
            flat = self.geometry.plane.restore_image({0: flat})
        return np.ascontiguousarray(self.plane.view(flat))

    def mask(self, prompt: VoxelPrompt) -> Array:
        """The object of a prompt, ``y x`` bool.

        Raises:
            ValueError: the prompt is not within the scan.
        """
        self.plane.check(prompt, f"scan '{self.case}'")
        return np.ascontiguousarray(self.plane.view(self.logits(prompt).numpy() > 0))

    @torch.no_grad()
    def logits(self, prompt: VoxelPrompt) -> torch.Tensor:
        """Mask logits of a prompt ``h w`` on the slicer's native pixels."""
        network, item = self.model.network, self._item(prompt.slice_index)
        device = next(network.parameters()).device
        index = int(item["index"])
        if self._embedded is None or self._embedded[0] != index:
            frame = self._frame(item)["image"][None].to(device)
            self._embedded = (index, network.encode(frame))
        stored = (int(item["size_hw"][0]), int(item["size_hw"][1]))
        native = self.geometry.slices_shape[1:]
        scale = torch.tensor([stored[1] / native[1], stored[0] / native[0]])
        boxes = points = labels = None
        if prompt.box is not None:
            box = torch.tensor(self.plane.box(prompt.box)) * scale.repeat(2)
            boxes = box_to_frame(box, stored, network.image_size)[None, None].to(device)
        if prompt.points:
            listed = torch.tensor([self.plane.point(x, y) for x, y, _ in prompt.points])
            listed = (listed + 0.5) * scale - 0.5
            points = points_to_frame(listed, stored, network.image_size)[None, None].to(device)
            labels = torch.tensor([[[label for *_, label in prompt.points]]]).to(device)
        found = network.decode_uniform(self._embedded[1], boxes, points, labels)
        logits = logits_to_slice(found[0].float().cpu(), stored)
        if self.geometry.plane is not None:
            logits = torch.from_numpy(self.geometry.plane.restore_logits({0: logits.numpy()}))
        return logits[0]

    def check(self, prompts: Sequence[VoxelPrompt]) -> None:
        """Do nothing where all prompts are within the scan.

        Raises:
            ValueError: one is not; names it by its number.
        """
        for number, prompt in enumerate(prompts, start=1):
            self.plane.check(prompt, f"scan '{self.case}', prompt {number}")

    def records(self, prompts: Sequence[VoxelPrompt], values: Sequence[int]) -> dict[int, Array]:
        """What a :class:`CaseLabelWriter` takes: by slice, the class of the largest logit.

        Args:
            prompts: of this scan; several of one class are joined.
            values: class values, ascending.

        Raises:
            ValueError: a prompt is not within the scan.
        """
        self.check(prompts)
        reader = ReadSlicesd(values)
        out = {}
        for slice_index in sorted({prompt.slice_index for prompt in prompts}):
            channels = torch.full((len(values) + 1, *self.geometry.slices_shape[1:]), NO_OBJECT)
            channels[0] = 0
            for prompt in prompts:
                if prompt.slice_index == slice_index:
                    channel = channels[values.index(prompt.value) + 1]
                    torch.maximum(channel, self.logits(prompt), out=channel)
            out[self.plane.index(slice_index)] = reader.read(channels)
        return out

    def overlay(self, path: Path, slice_index: int, label: Array) -> Path:
        """A PNG of a slice and the outlines of its label ``y x``."""
        picture = self.picture(slice_index)
        grey = picture if picture.ndim == 2 else picture.mean(2).round().astype(np.uint8)
        title = f"{self.case}, slice {slice_index}"
        columns = [("image", None), ("prediction", np.ascontiguousarray(label))]
        return overlay_grid([(title, grey, columns)], path, classes=self.model.classes)

    def _item(self, slice_index: int) -> dict[Any, Any]:
        return self.source[self.plane.index(slice_index)]


def predict_prompted(
    model: PromptedModel,
    images: Given,
    prompts: Mapping[str, Sequence[VoxelPrompt]] | Sequence[VoxelPrompt],
    out: str | Path,
    *,
    file_format: str | None = None,
    overlays: bool = False,
) -> list[Path]:
    """Segment what is prompted for; slices without a prompt stay empty.

    Args:
        model: :func:`model_of_run` or :func:`untouched_model`.
        images: scans.
        prompts: by case; a plain list is of the only scan.
        out: folder of the label files.
        file_format: of these; ``None``: each scan's own.
        overlays: draw each prompted slice too, ``CASE_slice_007.png``.

    Returns:
        The files written.

    Raises:
        FileNotFoundError, ValueError: a scan is unreadable, has no prompts, a prompt is not
            within it, or prompts are of no scan.
    """
    scans = find_scans(images)
    if not isinstance(prompts, Mapping):
        if len(scans) != 1:
            msg = f"one list of prompts is of one scan, got {len(scans)}"
            raise ValueError(msg)
        prompts = dict.fromkeys(scans, prompts)
    _check_names(prompts, scans)
    named = model.classes or {
        value: f"class_{value}"
        for value in sorted({prompt.value for case in scans for prompt in prompts[case]})
    }
    prompters = {
        case: ScanPrompter(model, {case: path}, out, file_format) for case, path in scans.items()
    }
    for case, prompter in prompters.items():  # all, before anything is written
        prompter.check(prompts[case])
    table = QualityTable(Path(out) / QC_FILE, list(named.values()))
    # of predictions without prompts, which a resumed command would take these for
    drop_companions(Path(out), RECORD_FILE, STATISTICS_FILE)
    written: list[Path] = []
    for case, prompter in prompters.items():
        records = prompter.records(prompts[case], list(named))
        writer = CaseLabelWriter(prompter.source, classes=named)
        writer.finish(case, records)
        table.add(writer.rows[0])
        written += writer.written
        if overlays:
            for slice_index in sorted({prompt.slice_index for prompt in prompts[case]}):
                label = records[prompter.plane.index(slice_index)]["label"]
                file = Path(out) / f"{case}_slice_{slice_index:03d}.png"
                written.append(prompter.overlay(file, slice_index, prompter.plane.view(label)))
    return written


def _check_names(prompts: Iterable[str], scans: Iterable[str]) -> None:
    """Refuse prompts of no scan and scans without prompts; names all of them."""
    given, known = list(prompts), list(scans)
    unknown = [case for case in given if case not in known]
    lacking = [case for case in known if case not in given]
    if unknown:
        listed = ", ".join(_with_nearest(case, known) for case in unknown)
        msg = f"prompts of no scan: {listed}; the scans are: {', '.join(known)}"
        raise ValueError(msg)
    if lacking:
        msg = f"no prompts for scans: {', '.join(lacking)}; there are some for: {', '.join(given)}"
        raise ValueError(msg)


def _with_nearest(case: str, known: Sequence[str]) -> str:
    nearest = get_close_matches(case, known, n=1)
    return f"'{case}'" + (f" (nearest: '{nearest[0]}')" if nearest else "")
