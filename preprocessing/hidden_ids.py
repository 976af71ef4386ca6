"""Case ids that tell nothing about a person: an HMAC with a secret salt in place of names.

The salt is a file of the user's settings and never in the output, which holds its fingerprint:
patient ids are short numbers, so that whoever has salt and output could try them all.
"""

import hashlib
import hmac
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.readers.dicom_files import (
    HMAC_DIGITS,
    UnknownPatientError,
    dicom_case_id,
    has_dicom,
    is_dicom,
)

SALT_NAME = "case_id_salt"
SALT_BYTES = 32
FINGERPRINT_DIGITS = 16
LEAST_CHARACTERS = 16


def default_salt_file() -> Path:
    """``case_id_salt`` in ``$XDG_CONFIG_HOME/samtune`` or ``~/.config/samtune``."""
    settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(settings) / "samtune" / SALT_NAME


def read_salt(path: Path) -> str:
    """The salt in a file; a new one, that only its owner may read, if there is no such file.

    Raises:
        ValueError: the file holds fewer than 16 characters.
    """
    if not path.exists():
        _make_salt(path)
    salt = path.read_text(encoding="utf-8").strip()
    if len(salt) < LEAST_CHARACTERS:
        raise ValueError(
            f"{path}: a salt of {len(salt)} characters; expected {LEAST_CHARACTERS} or more of "
            "secret text"
        )
    return salt


def _make_salt(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")  # mode 0600
    try:
        with os.fdopen(number, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_hex(SALT_BYTES)}\n")
        with suppress(FileExistsError):  # another process was first: its salt counts
            os.link(name, path)
    finally:
        Path(name).unlink()


def salt_fingerprint(salt: str) -> str:
    """Tells two salts apart and says nothing of either."""
    return hmac.new(salt.encode(), b"fingerprint", hashlib.sha256).hexdigest()[:FINGERPRINT_DIGITS]


def hide_ids(cases: Sequence[CaseSource], salt: str) -> list[CaseSource]:
    """The same cases under ids that tell nothing.

    The id is 16 hex digits of the HMAC-SHA256 of the patient id of DICOM images, of other images
    of the case's own name. Several cases of one DICOM patient are numbered in the order of their
    names, and are one patient for the split. Patients that a rule named are hidden alike.

    Raises:
        UnknownPatientError: DICOM files without a patient id, or of several patients.
    """
    ordered = sorted(cases, key=lambda one: one.case)
    hidden = [_hidden(one, salt) for one in ordered]
    counts = Counter(name for name, _ in hidden)
    seen: Counter[str] = Counter()
    renamed = []
    for one, (name, patient) in zip(ordered, hidden, strict=True):
        seen[name] += 1
        case = f"{name}_{seen[name]}" if counts[name] > 1 else name
        renamed.append(replace(one, case=case, patient=patient, is_hidden=True))
    return renamed


def _hidden(one: CaseSource, salt: str) -> tuple[str, str | None]:
    """Id and patient of a case."""
    patient = None if one.patient is None else _digest(f"patient {one.patient}", salt)
    path = one.image
    if is_dicom(path) if path.is_file() else has_dicom(path):
        try:
            name = dicom_case_id(path, salt=salt)
        except UnknownPatientError:
            raise
        except ValueError:  # damaged, which is this case's failure when it is read
            return _digest(one.case, salt), patient
        return name, patient or name
    return _digest(one.case, salt), patient


def _digest(text: str, salt: str) -> str:
    return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()[:HMAC_DIGITS]
