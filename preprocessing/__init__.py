"""From volumes to slice files and back: reading, intensity, slicing, splits, the manifest."""

from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.manifest import CaseRecord, Manifest, SliceRecord, load_manifest
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.slicing import CaseGeometry, slices_to_volume, volume_to_slices
from samtune.preprocessing.volumes import Volume, read_label, read_volume, write_label

__all__ = [
    "CaseGeometry",
    "CaseRecord",
    "Intensity",
    "Manifest",
    "SliceRecord",
    "Volume",
    "load_manifest",
    "prepare_case",
    "read_label",
    "read_volume",
    "slices_to_volume",
    "volume_to_slices",
    "write_label",
]
