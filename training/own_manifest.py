"""What stands in a manifest's place where images were not made by ``samtune slice``."""

from dataclasses import dataclass

from samtune.preprocessing.manifest import CaseRecord, Manifest

OWN = "own"  # the modality of such data in run.json


class NoCases(dict[str, CaseRecord]):
    """No case has a record, which says whoever looks for one."""

    def __missing__(self, case: str) -> CaseRecord:
        raise ValueError(
            f"'{case}' is of a dataset of your own, which has no geometry: class_weights "
            "inverse_frequency needs a folder of slices; name the weights"
        )


@dataclass(frozen=True)
class OwnManifest(Manifest):
    """What stands in a manifest's place; a row an item.

    Attributes:
        fingerprint: of lengths and of some items, to tell another dataset when a run resumes.
        source: where the data are from, as the config says.
    """

    fingerprint: str = ""
    source: str | None = None
