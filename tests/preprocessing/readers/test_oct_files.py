"""OCT vendor files, on objects with the attributes that oct-converter documents."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from samtune.preprocessing.readers import oct_files
from samtune.preprocessing.volumes import read_image

BSCANS = np.arange(3 * 6 * 5, dtype=np.uint8).reshape(3, 6, 5)  # B-scan depth column


def scan(spacing, volume=BSCANS, eye="R"):
    """Stands in for an OCTVolumeWithMetaData."""
    return SimpleNamespace(
        volume=list(volume),
        patient_id="PID-4711",
        first_name="JANE",
        surname="DOE",
        DOB="19700101",
        volume_id="1_2_3",
        laterality=eye,
        pixel_spacing=spacing,
        metadata={"name": "DOE"},
    )


@pytest.mark.parametrize(
    ("suffix", "spacing"),
    [
        (".fda", [0.012, 0.25, 0.004]),  # width, slice thickness, height
        (".fds", [0.012, 0.25, 0.004]),
        (".e2e", [0.012, 0.004, 0.25]),  # x, depth, slice
        (".E2E", [0.012, 0.004, 0.25]),
    ],
)
def test_bscans_are_pages_and_each_vendors_spacing_is_put_in_order(tmp_path, suffix, spacing):
    found = scan(spacing)
    opened = [found] if suffix.lower() == ".e2e" else found
    volume = oct_files.read(tmp_path / f"a{suffix}", open_file=lambda path: opened)
    np.testing.assert_array_equal(volume.array, BSCANS.transpose(1, 2, 0))
    assert volume.spacing == (0.004, 0.012, 0.25)
    assert bool(volume.notes) == (suffix.lower() == ".e2e")
    text = bytes(volume.header.binaryblock) + repr(volume).encode()
    for secret in (b"DOE", b"JANE", b"4711", b"19700101"):
        assert secret not in text


def test_a_file_without_spacing_counts_in_pixels(tmp_path):
    volume = oct_files.read(tmp_path / "a.oct", open_file=lambda path: [scan(None)])
    assert (volume.spacing, volume.has_spacing) == ((1, 1, 1), False)


def test_of_two_eyes_one_is_chosen(tmp_path):
    both = [scan(None), scan(None, BSCANS[:2], "L")]
    path = tmp_path / "a.e2e"
    with pytest.raises(ValueError, match="1: eye R, 3 B-scans; 2: eye L, 2 B-scans; choose one"):
        oct_files.read(path, open_file=lambda path: both)
    assert oct_files.read(path, series="2", open_file=lambda path: both).shape == (6, 5, 2)
    with pytest.raises(ValueError, match="there is no volume '3'"):
        oct_files.read(path, series="3", open_file=lambda path: both)


def test_missing_and_uneven_bscans_are_refused_and_warnings_noted(tmp_path):
    path = tmp_path / "a.fds"
    holes = [BSCANS[0], 0, BSCANS[2]]  # oct-converter fills with zeros what it does not find
    with pytest.raises(ValueError, match="1 of 3 B-scans are missing, the first is number 1"):
        oct_files.read(path, open_file=lambda path: scan(None, holes))
    uneven = [BSCANS[0], BSCANS[1][:3]]
    with pytest.raises(ValueError, match="of different size"):
        oct_files.read(path, open_file=lambda path: scan(None, uneven))

    def doubtful(path):
        warnings.warn("could not reshape", UserWarning, stacklevel=2)
        return scan(None)

    assert "warned 1 times" in oct_files.read(path, open_file=doubtful).notes[0]


def test_damage_is_named_whatever_the_parser_raises(tmp_path):
    pytest.importorskip("oct_converter")
    for suffix in (".e2e", ".fda", ".fds"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"garbage" * 100)
        with pytest.raises(ValueError, match=rf"a\{suffix}: (not a readable|has no OCT volume)"):
            read_image(path)
