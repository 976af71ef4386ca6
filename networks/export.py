"""Segmenters as TorchScript and ONNX files that run without samtune.

The network is traced once; files are checked against it before they get their name. Adapters should
be merged before: their layers are exported as they are where they can be traced.
"""

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from samtune.atomic import whole_file
from samtune.networks.export_parts import Part, describe, make_part
from samtune.networks.segmenter import SamSegmenter

OPSET = 18
METADATA = "samtune.json"  # in a TorchScript file; in ONNX each entry is one of metadata_props
ONE_FILE_BYTES = 1_900_000_000  # protobuf ends at 2 GB: larger weights lie beside the ONNX file


class ExportError(ValueError):
    """The network can't be traced."""


def export_torchscript(
    segmenter: SamSegmenter,
    path: str | Path,
    *,
    part: str = "model",
    class_names: Sequence[str] = (),
    mask_input: bool = False,
) -> dict[str, Any]:
    """Write a TorchScript file for any batch size; ``torch.jit.load`` alone reads it.

    Args:
        segmenter: stays as it is; a copy is exported, in evaluation mode and on the CPU.
        path: the file.
        part: ``model`` (images to logits), ``encoder`` (images to embedding) or ``decoder``
            (embedding and points to masks), see :mod:`samtune.networks.export_parts`.
        class_names: of the foreground channels.
        mask_input: the decoder takes a mask to start from too.

    Returns:
        Description of the file: part, inputs, outputs, normalization, classes.

    Raises:
        ExportError: the network can't be traced.
        FileExistsError: ``path`` is there already.
    """
    path = _free(path)
    chosen = make_part(_copy(segmenter), part, mask_input=mask_input)
    about = describe(segmenter, chosen, class_names)
    with (
        torch.enable_grad(),  # without, TinyViT takes a batch image by image: a fixed number
        _says_what_failed(about, "TorchScript"),
        warnings.catch_warnings(),
    ):
        # deprecated, but what MONAI Label and C++ programs load; what depends on values is checked
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            chosen.module, chosen.example(1), check_trace=False
        )
        _compare(traced, chosen)
        with whole_file(path) as partial:
            torch.jit.save(traced, str(partial), {METADATA: json.dumps(about, sort_keys=True)})
    return about


def export_onnx(
    segmenter: SamSegmenter,
    path: str | Path,
    *,
    part: str = "model",
    class_names: Sequence[str] = (),
    mask_input: bool = False,
    opset: int = OPSET,
) -> dict[str, Any]:
    """Write an ONNX file for any batch size and number of points; see :func:`export_torchscript`.

    The description is in the file's ``metadata_props``, lists as JSON. Weights above 1.9 GB go to
    ``PATH.data`` beside it.

    Raises:
        ImportError: onnx and onnxscript are not installed.
    """
    path = _free(path)
    _free(f"{path}.data")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        msg = "ONNX export needs onnx and onnxscript: pip install 'samtune[export]'"
        raise ImportError(msg, name=error.name) from error
    chosen = make_part(_copy(segmenter), part, mask_input=mask_input)
    about = {**describe(segmenter, chosen, class_names), "opset": opset}
    # 0 and 1 would be taken for constants
    example = chosen.example(2)
    shapes = tuple(
        {i: torch.export.Dim(axis) for i, axis in enumerate(t.shape) if isinstance(axis, str)}
        for t in chosen.inputs
    )
    with (
        torch.enable_grad(),  # as for TorchScript
        _says_what_failed(about, "ONNX"),
        warnings.catch_warnings(),
    ):
        # SAM-Adapter hands values from layer to layer that way; what comes out is checked
        warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)
        exported = torch.export.export(chosen.module, example, dynamic_shapes=shapes)
        _compare(exported.module(), chosen)
        program = torch.onnx.export(
            exported,
            (),
            input_names=[tensors.name for tensors in chosen.inputs],
            output_names=[tensors.name for tensors in chosen.outputs],
            dynamo=True,
            opset_version=opset,
            verbose=False,
        )
        assert program is not None
    _name_axes(program.model, chosen)
    for key, value in about.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        program.model.metadata_props[key] = text
    size = sum(t.nbytes for t in [*chosen.module.parameters(), *chosen.module.buffers()])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        # the file holds the name of that beside it, so both get theirs at once
        program.save(str(Path(folder, path.name)), external_data=size > ONE_FILE_BYTES)
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the data first
            os.replace(file, path.parent / file.name)
    return about


def _copy(segmenter: SamSegmenter) -> SamSegmenter:
    """A frozen copy on the CPU, in evaluation mode, without what a last forward left in it."""
    return copy.deepcopy(segmenter).cpu().eval().requires_grad_(False)


@contextmanager
def _says_what_failed(about: dict[str, Any], form: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ExportError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = (
            f"part '{about['part']}' of this '{about['arch']}' network can't be exported to {form} "
            f"(are there adapters that can't be merged?): {reason}"
        )
        raise ExportError(msg) from error


def _compare(traced: Any, part: Part) -> None:
    """Raise where a trace differs from its module on other values and another batch."""
    other = part.example(3, points=3, seed=1)
    found, expected = traced(*other), part.module(*other)
    for one, two in zip(_listed(found), _listed(expected), strict=True):
        difference = float((one - two).abs().max())
        if not difference <= 1e-3 * max(1.0, float(two.abs().max())):
            msg = f"what was traced differs by {difference:.3g} on other images: it depends on them"
            raise ExportError(msg)


def _listed(out: Any) -> list[torch.Tensor]:
    return [out] if isinstance(out, torch.Tensor) else list(out)


def _name_axes(model: Any, part: Part) -> None:
    """Give free axes our names; the exporter numbers them."""
    import onnx_ir

    names = {}
    for value, tensors in zip(model.graph.inputs, part.inputs, strict=True):
        for dim, axis in zip(value.shape, tensors.shape, strict=True):
            if isinstance(axis, str):
                names[str(dim)] = axis
    made = (out for node in model.graph.all_nodes() for out in node.outputs)
    for value in (*model.graph.inputs, *made):
        if value.shape is not None:
            dims = [names.get(str(dim), dim) for dim in value.shape]
            value.shape = onnx_ir.Shape(dims)


def _free(path: str | Path) -> Path:
    path = Path(path)
    if path.exists():
        msg = f"'{path}' exists already; choose another"
        raise FileExistsError(msg)
    return path
