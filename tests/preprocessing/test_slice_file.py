import time

import numpy as np
import pytest

from samtune.preprocessing.slice_file import read_slice_file, write_slice_file

GREY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tail", [(), (3,)])
@pytest.mark.parametrize("is_labelled", [True, False])
def test_what_is_written_is_read(tmp_path, dtype, tail, is_labelled):
    imgs = np.arange(2 * 3 * 4 * 3).astype(dtype).reshape(2, 3, 4, 3)
    imgs = imgs if tail else imgs[..., 0]
    gts = (np.arange(24).reshape(2, 3, 4) * 30).astype(np.uint16) if is_labelled else None
    write_slice_file(tmp_path / "a.npz", imgs, gts)
    imgs_read, gts_read = read_slice_file(tmp_path / "a.npz")
    assert imgs_read.dtype == dtype
    np.testing.assert_array_equal(imgs_read, imgs)
    if gts is None:
        assert gts_read is None
    else:
        assert gts_read.dtype == np.uint16
        np.testing.assert_array_equal(gts_read, gts)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_bytes_do_not_depend_on_the_time(tmp_path, monkeypatch):
    write_slice_file(tmp_path / "a.npz", GREY, GREY)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    monkeypatch.setattr(time, "localtime", lambda _=None: time.gmtime(2_000_000_000))
    write_slice_file(tmp_path / "b.npz", GREY, GREY)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("imgs", "gts", "shape"),
    [
        (GREY[0], GREY[0].astype(np.int64), (1, 3, 4)),
        (np.zeros((5, 6, 3), np.uint8), np.zeros((5, 6), bool), (1, 5, 6, 3)),
        (GREY[0], None, (1, 3, 4)),
        (np.zeros((5, 6, 3), np.uint8), np.zeros((5, 6, 3), np.uint8), (5, 6, 3)),
    ],
)
def test_files_of_other_tools_get_their_first_axis(tmp_path, imgs, gts, shape):
    np.savez(
        tmp_path / "a.npz",
        imgs=imgs,
        spacing=np.ones(3),
        **({"gts": gts} if gts is not None else {}),
    )
    read, label = read_slice_file(tmp_path / "a.npz")
    assert read.shape == shape
    if gts is not None:
        assert label.shape == shape[:3]
        assert label.dtype == np.uint8


@pytest.mark.parametrize(
    ("imgs", "gts", "message"),
    [
        (GREY.astype(np.float32), None, "'imgs' is float32; expected uint8 or uint16"),
        (GREY[0], None, r"'imgs' has shape \(3, 4\)"),
        (GREY, GREY.astype(np.int32), "'gts' is int32"),
        (GREY, GREY[:, :2], r"'gts' has shape \(2, 2, 4\); expected \(2, 3, 4\)"),
        (np.zeros((0, 3, 4), np.uint8), None, r"'imgs' has shape \(0, 3, 4\)"),
    ],
)
def test_arrays_that_the_format_does_not_have_are_not_written(tmp_path, imgs, gts, message):
    with pytest.raises(ValueError, match=message):
        write_slice_file(tmp_path / "a.npz", imgs, gts)
    assert not list(tmp_path.iterdir())


def test_damaged_pickled_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=r"a\.npz: no such slice file"):
        read_slice_file(path)
    write_slice_file(path, GREY, None)
    for size in (0, 5, len(path.read_bytes()) - 30):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"a\.npz: not a complete \.npz"):
            read_slice_file(path)
        write_slice_file(path, GREY, None)
    np.savez(path, imgs=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npz: not a complete \.npz"):
        read_slice_file(path)
    np.savez(path, image=GREY)
    with pytest.raises(ValueError, match=r"expected the array 'imgs', found image"):
        read_slice_file(path)
    for gts in (GREY * 0.5, GREY.astype(np.int64) - 1, GREY.astype(np.int64) + 70000):
        np.savez(path, imgs=GREY, gts=gts)
        with pytest.raises(ValueError, match="expected whole numbers from 0 to 65535"):
            read_slice_file(path)
