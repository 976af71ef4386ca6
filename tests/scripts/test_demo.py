"""The box demo without a screen: events as the window sends them."""

import importlib.util
import sys
from types import SimpleNamespace

import matplotlib
import nibabel as nib
import numpy as np
import pytest

from samtune.preprocessing.voxel_prompts import VoxelPrompt
from samtune.training import scan_prompts as prompted

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def script():
    from pathlib import Path

    path = Path(__file__).resolve().parents[2] / "scripts/demo.py"
    spec = importlib.util.spec_from_file_location("samtune_demo", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["samtune_demo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["samtune_demo"]


class Boxes(prompted.ScanPrompter):
    """The object is what is in the box, or the points inside."""

    def mask(self, prompt):
        width, height = self.plane.size_xy
        mask = np.zeros((height, width), bool)
        if prompt.box is not None:
            x0, y0, x1, y1 = (round(value) for value in prompt.box)
            mask[y0:y1, x0:x1] = True
        for x, y, inside in prompt.points:
            mask[int(y), int(x)] = bool(inside)
        return mask

    def records(self, prompts, values):
        kinds = [("label", np.uint16), ("confidence", np.float32)]
        shape = self.geometry.slices_shape[1:]
        return {self.plane.index(p.slice_index): np.ones(shape, np.dtype(kinds)) for p in prompts}


@pytest.fixture
def demo(script, tiny_volumes, tmp_path):
    network = SimpleNamespace(image_size=32, normalization="medsam")
    from samtune.preprocessing.intensity import Intensity

    model = prompted.PromptedModel(network, Intensity.for_modality("mr").to_dict())
    scan = tiny_volumes / "images/case_0.nii.gz"
    window = script.BoxDemo(Boxes(model, scan, tmp_path))
    yield window
    script.plt.close(window.figure)


def event(demo, x, y, key=None, **more):
    return SimpleNamespace(inaxes=demo.axes, xdata=x, ydata=y, key=key, **more)


def drag(demo, start, end):
    demo.press(event(demo, *start))
    demo.release(event(demo, *end))


def test_a_drag_is_a_box_in_voxels(demo):
    assert demo.slice_index == 1  # the middle of three
    assert demo.mask is None
    drag(demo, (8.5, 9.5), (1.5, 3.5))  # upwards and to the left
    assert demo.prompts == {1: VoxelPrompt(1, 1, (2.0, 4.0, 9.0, 10.0))}
    assert demo.mask.sum() == 7 * 6
    assert "42 voxels" in demo.axes.get_title()
    assert len(demo.axes.images) == 2  # slice and mask
    drag(demo, (-5, -5), (400, 400))  # another in its place, cut at the border
    width, height = demo.prompter.plane.size_xy
    assert demo.prompts[1].box == (0, 0, width, height)


def test_clicks_with_a_key_are_points(demo):
    for at, key in (((3.4, 5.2), "shift"), ((4, 4), "control"), ((9, 9), None)):
        demo.press(event(demo, *at))
        demo.release(event(demo, *at, key=key))
    assert demo.prompts[1].points == ((3.0, 5.0, 1), (4.0, 4.0, 0))
    assert demo.mask.sum() == 1


def test_slices_keep_their_prompts_and_end_at_the_ends(demo):
    drag(demo, (1, 1), (5, 5))
    for _ in range(5):
        demo.key(SimpleNamespace(key="up"))
    assert demo.slice_index == 2
    assert demo.mask is None
    demo.scroll(SimpleNamespace(button="down"))
    assert demo.slice_index == 1
    assert demo.mask is not None
    demo.key(SimpleNamespace(key="c"))
    assert demo.mask is None
    assert demo.prompts == {}


def test_events_outside_and_small_drags_do_nothing(demo):
    demo.press(SimpleNamespace(inaxes=None, xdata=None, ydata=None))
    demo.release(event(demo, 5, 5, key="shift"))
    drag(demo, (3, 3), (3.5, 9))
    assert demo.prompts == {}


def test_s_saves_all_slices(demo, tiny_volumes, tmp_path, capsys):
    with pytest.raises(ValueError, match="nothing to save"):
        demo.save()
    drag(demo, (1, 1), (5, 5))
    demo.key(SimpleNamespace(key="s"))
    assert capsys.readouterr().out == f"{tmp_path / 'case_0.nii.gz'}\n"
    label = nib.load(tmp_path / "case_0.nii.gz")
    assert [bool(np.asarray(label.dataobj)[:, :, k].any()) for k in range(3)] == [0, 1, 0]


def test_wrong_usage_exits_2(script):
    with pytest.raises(SystemExit, match="2"):
        script.main(["scan.nii.gz"])
    with pytest.raises(SystemExit, match="2"):
        script.main(["run", "scan.nii.gz", "--base", "lite_medsam"])
