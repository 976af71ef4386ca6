"""Which files of a folder are DICOM images, and which of its series to read."""

import hashlib
import hmac
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import ImplicitVRLittleEndian

SUFFIXES = (".dcm", ".dicom", ".ima")
PREAMBLE = 128  # bytes before the letters DICM
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
HMAC_DIGITS = 16
MAX_NAMED = 5
DAMAGED = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
)
MAX_LISTED = 20  # series; a folder of many patients has hundreds


class UnknownPatientError(ValueError):
    """DICOM files do not say whose they are."""


@dataclass(frozen=True, eq=False)
class Header:
    """A DICOM image file without its pixels."""

    path: Path
    dataset: Dataset

    def get(self, keyword: str, default: Any = None) -> Any:
        """Value of an element; ``default`` where it is absent or empty."""
        value = self.dataset.get(keyword)
        return default if value is None or value == "" else value


@dataclass(frozen=True, eq=False)
class Series:
    """Image files of one SeriesInstanceUID."""

    uid: str
    description: str
    number: str
    modality: str
    headers: tuple[Header, ...]

    def __str__(self) -> str:
        name = repr(self.description) if self.description else "without description"
        count = len(self.headers)
        return f"number {self.number or '?'}, {name}, {self.modality}, {count} files"


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its suffix or by its first bytes."""
    if path.name.upper() == "DICOMDIR":
        return False
    return path.name.lower().endswith(SUFFIXES) or _has_magic(path)


@contextmanager
def named_damage(path: Path, *ours: Path) -> Iterator[None]:
    """Whatever pydicom raises on damaged bytes, often only when a value is used, names the file.

    Args:
        path: the file.
        ours: other paths that our own messages start with.

    Raises:
        ValueError: instead of pydicom's errors.
    """
    try:
        with warnings.catch_warnings():
            # values that break the standard's letter are common, and the warning shows them
            warnings.simplefilter("ignore")
            yield
    except DAMAGED as error:
        if isinstance(error, ValueError) and str(error).startswith(
            tuple(str(own) for own in (path, *ours))
        ):
            raise
        raise ValueError(
            f"{path}: not a readable DICOM file ({_one_line(error)}); expected one, or the folder "
            "without it"
        ) from error


def read_dataset(path: Path, *, pixels: bool) -> Dataset:
    """A DICOM file; damage is an error that names the file.

    Raises:
        ValueError: not a readable DICOM file.
    """
    with named_damage(path):
        # force: old files lack the preamble
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
        if "SOPClassUID" not in dataset:
            raise ValueError("it has no SOPClassUID")
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def find_series(folder: Path) -> list[Series]:
    """Image series below a folder, in order of their number and description.

    SimpleITK leaves a file that it can't read out of a series without a word. Here a file with
    the suffix of the others, with a DICOM suffix or with DICOM's first bytes has to be readable.

    Raises:
        ValueError: a file is damaged; names it.
    """
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name.upper() != "DICOMDIR"
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    dicom = [path for path in files if is_dicom(path)]
    suffixes = {path.suffix.lower() for path in dicom}
    if any(suffix.strip(".").isdecimal() for suffix in suffixes):  # UIDs as names: IM.1.2.840.17
        suffixes.update(p.suffix.lower() for p in files if p.suffix.strip(".").isdecimal())
    known = set(dicom)
    damaged = [path for path in files if path not in known and path.suffix.lower() in suffixes]
    if damaged:
        raise ValueError(
            f"{damaged[0]}: not a readable DICOM file (it does not start as one), but "
            f"{len(dicom)} files beside it are; expected one, or the folder without it"
        )
    headers = [Header(path, read_dataset(path, pixels=False)) for path in dicom]
    return group_series(header for header in headers if is_image(header))


def has_dicom(folder: Path) -> bool:
    """Whether any file below a folder says that it is DICOM."""
    return any(path.is_file() and is_dicom(path) for path in sorted(folder.rglob("*")))


def is_image(header: Header) -> bool:
    """Whether it has pixels of a scan: no segmentation, contours or report."""
    with named_damage(header.path):
        return "Rows" in header.dataset and header.get("SOPClassUID") not in SEGMENTATIONS


def find_label_object(path: Path) -> tuple[Path, str] | None:
    """A segmentation or structure set: the file itself, or the only one in a folder.

    Returns:
        Its file and SOPClassUID; None if there is none.

    Raises:
        ValueError: a folder holds several, or a file is damaged.
    """
    files = [path]
    if path.is_dir():
        files = [one for one in sorted(path.rglob("*")) if one.is_file()]
    found = []
    for file in files:
        if is_dicom(file):
            with named_damage(file):
                kind = str(read_dataset(file, pixels=False).get("SOPClassUID"))
            if kind in SEGMENTATIONS or kind == STRUCTURE_SET:
                found.append((file, kind))
    if len(found) > 1:
        names = ", ".join(file.name for file, _ in found[:MAX_NAMED])
        raise ValueError(
            f"{path}: has {len(found)} segmentations or structure sets, {names}; "
            "expected one: give the file"
        )
    return found[0] if found else None


def group_series(headers: Iterable[Header]) -> list[Series]:
    """Sort headers into series, in order of their number and description."""
    groups: dict[str, list[Header]] = {}
    names: dict[str, tuple[str, str, str]] = {}
    for header in headers:
        with named_damage(header.path):
            uid = str(header.get("SeriesInstanceUID", ""))
            if uid not in names:
                names[uid] = (
                    str(header.get("SeriesDescription", "")).strip(),
                    str(header.get("SeriesNumber", "")).strip(),
                    str(header.get("Modality", "?")),
                )
        groups.setdefault(uid, []).append(header)
    series = [Series(uid, *names[uid], tuple(group)) for uid, group in groups.items()]
    return sorted(series, key=lambda one: (one.number.zfill(12), one.description))


def choose_series(path: Path, found: Sequence[Series], series: str | None) -> Series:
    """The series to read.

    Args:
        path: folder, for messages.
        found: its series.
        series: SeriesDescription, SeriesInstanceUID or SeriesNumber; needed if there are several.

    Raises:
        ValueError: no series, several without a choice, or a choice that fits none or several.
            The message lists them by number and description: a UID leads to a person.
    """
    if not found:
        raise ValueError(f"{path}: found no DICOM image; expected a series")
    more = f"; and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    listed = "; ".join(str(one) for one in found[:MAX_LISTED]) + more
    if series is None:
        if len(found) == 1:
            return found[0]
        raise ValueError(
            f"{path}: found {len(found)} DICOM series: {listed}; choose one by its description, "
            "number or SeriesInstanceUID (--series)"
        )
    for key in ("uid", "description", "number"):
        fitting = [one for one in found if getattr(one, key) == series]
        if len(fitting) == 1:
            return fitting[0]
        if len(fitting) > 1:
            raise ValueError(
                f"{path}: series {series!r} fits {len(fitting)} of its series: {listed}; choose by "
                "number or SeriesInstanceUID (--series)"
            )
    raise ValueError(f"{path}: there is no series {series!r}; found {listed}")


def dicom_case_id(folder: Path, *, salt: str | None = None) -> str:
    """Name of the case in a DICOM folder that tells nothing about the person.

    Args:
        folder: with the DICOM files, or one of them.
        salt: secret text; with it the name is 16 hex digits of the HMAC-SHA256 of the patient id,
            the same for all folders of one patient. Without it, it is the folder's name.

    Raises:
        UnknownPatientError: a salt, but the files have no patient id, or several.
        ValueError: a salt, and a file is damaged.
    """
    folder = Path(folder)
    if salt is None:
        return folder.resolve().name
    if not salt:
        raise ValueError(f"{folder}: the salt of case names is empty; expected secret text")
    if folder.is_file():
        headers = [Header(folder, read_dataset(folder, pixels=False))]
    else:
        headers = [header for one in find_series(folder) for header in one.headers]
    with named_damage(folder):
        counts = Counter(str(header.get("PatientID", "")).strip() for header in headers)
    if len(counts) != 1 or "" in counts:
        raise UnknownPatientError(
            f"{folder}: its files have {len(counts)} patient ids or an empty one; expected one"
        )
    patient = next(iter(counts))
    return hmac.new(salt.encode(), patient.encode(), hashlib.sha256).hexdigest()[:HMAC_DIGITS]


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
