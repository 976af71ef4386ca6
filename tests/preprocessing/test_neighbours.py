import numpy as np
import pytest

from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.neighbours import StackNeighboursd, stacked_slice
from samtune.preprocessing.slice_file import write_slice_file
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slice_transforms import LoadSliced


def items_of(manifest, case):
    return [
        {
            "file": str(manifest.path(row)),
            "position": row.position,
            "case": case,
            "index": row.index,
            "tile": row.tile,
        }
        for row in manifest.select(case=case)
    ]


@pytest.mark.parametrize("layout", ["slice", "volume"])
@pytest.mark.parametrize("distance", [1, 2])
@pytest.mark.parametrize("tile", [None, 4])
def test_neighbours_of_the_same_case_and_tile_are_channels(run, tmp_path, layout, distance, tile):
    run(layout=layout, slicing=Slicing(tile_size=tile))
    manifest = load_manifest(tmp_path / "out")
    load, add = LoadSliced([1, 2]), StackNeighboursd(manifest, distance)
    for case, record in manifest.cases.items():
        items = [load(item) for item in items_of(manifest, case)]
        tiles = record.geometry.num_tiles
        assert (tiles == 1) == (tile is None)
        alone = np.stack([item["image"][0] for item in items])
        last = record.num_slices - 1
        for number, item in enumerate(items):
            image = add(item)["image"]
            index, place = divmod(number, tiles)
            for channel, offset in enumerate((-distance, 0, distance)):
                at = min(max(index + offset, 0), last) * tiles + place
                np.testing.assert_array_equal(image[channel], alone[at])
            again = stacked_slice(alone, number, num_tiles=tiles, distance=distance)
            np.testing.assert_array_equal(again, image)


def test_distance_0_changes_nothing_and_reads_nothing(run, tmp_path):
    run()
    manifest = load_manifest(tmp_path / "out")
    item = {"image": "as it is", "case": "a", "index": 0}
    assert StackNeighboursd(manifest, 0)(item) == item
    slices = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(
        stacked_slice(slices, 1, num_tiles=1, distance=0), slices[1][None]
    )


def test_colour_and_negative_distances_are_refused(run, tmp_path):
    run()
    manifest = load_manifest(tmp_path / "out")
    with pytest.raises(ValueError, match="distance of 0 or more slices, got -1"):
        StackNeighboursd(manifest, -1)
    row = manifest.select(case="a")[0]
    colour = np.zeros((1, 5, 8, 3), np.uint8)
    write_slice_file(manifest.path(row), colour, None)
    item = LoadSliced([1])(items_of(manifest, "a")[0])
    with pytest.raises(ValueError, match=r"case a: neighbouring slices .* not colour"):
        StackNeighboursd(manifest, 1)(item)
