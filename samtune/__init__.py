"""samtune: fine-tune Segment Anything on medical images with a few percent of its parameters."""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "LoRA",
    "SamSegmenter",
    "__version__",
    "adapt",
    "build_sam",
    "evaluate_folders",
    "predict",
    "slice_volumes",
]

# In a source checkout or an editable install the code folders lie beside this one; a wheel has
# them inside.
_root = _Path(__file__).resolve().parent.parent
if (_root / "setup.py").is_file() and (_root / "networks").is_dir():
    __path__.append(str(_root))

if TYPE_CHECKING:
    from samtune.evaluation.evaluate_folders import evaluate_folders
    from samtune.networks import SamSegmenter, build_sam
    from samtune.peft.adapt import adapt
    from samtune.peft.lora import LoRA
    from samtune.preprocessing.slice_volumes import slice_volumes
    from samtune.training.predict import predict

# Loaded at first use: `import samtune` must not cost the import of torch.
_LAZY = {
    "LoRA": "samtune.peft.lora",
    "SamSegmenter": "samtune.networks",
    "adapt": "samtune.peft.adapt",
    "build_sam": "samtune.networks",
    "evaluate_folders": "samtune.evaluation.evaluate_folders",
    "predict": "samtune.training.predict",
    "slice_volumes": "samtune.preprocessing.slice_volumes",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'samtune' has no attribute {name!r}; it has {__all__}")
    value: object = getattr(_import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
