"""Drag a box over a slice and see what the model makes of it.

    python scripts/demo.py runs/first scan.nii.gz
    python scripts/demo.py --base lite_medsam --modality mr scan.nii.gz

Drag: a box. Shift and click: a point inside; control and click: one outside. Up, down, wheel:
another slice. c: clear. s: save the masks of all slices as a label file. q: quit.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from samtune.evaluation.overlay import class_colour
from samtune.preprocessing.voxel_prompts import VoxelPrompt
from samtune.training.case_writers import CaseLabelWriter
from samtune.training.scan_prompts import ScanPrompter, model_of_run, untouched_model

SMALLEST_BOX = 1.0  # voxels; less is a click
TURNS = {"up": 1, "down": -1, "right": 1, "left": -1}
INSIDE, OUTSIDE = 1, 0


class BoxDemo:
    """A window on one scan; prompts of each slice are kept.

    Args:
        prompter: of the scan.
        slice_index: shown first; ``None``: the middle.
    """

    def __init__(self, prompter: ScanPrompter, slice_index: int | None = None) -> None:
        self.prompter = prompter
        self.num_slices = prompter.plane.num_slices
        self.slice_index = self.num_slices // 2 if slice_index is None else slice_index
        self.prompts: dict[int, VoxelPrompt] = {}
        self.mask: Any = None
        self._start: tuple[float, float] | None = None
        self.figure, self.axes = plt.subplots(num=f"samtune: {prompter.case}")
        # matplotlib's own keys (s saves a picture, c goes back) would act beside ours
        manager = self.figure.canvas.manager
        if manager is not None and manager.key_press_handler_id is not None:
            self.figure.canvas.mpl_disconnect(manager.key_press_handler_id)
        connect = self.figure.canvas.mpl_connect
        connect("button_press_event", self.press)
        connect("button_release_event", self.release)
        connect("key_press_event", self.key)
        connect("scroll_event", self.scroll)
        self.show()

    def press(self, event: Any) -> None:
        """A drag or click begins."""
        if event.inaxes is self.axes and event.xdata is not None:
            self._start = (float(event.xdata), float(event.ydata))

    def release(self, event: Any) -> None:
        """A drag becomes a box, a click with shift or control a point."""
        start, self._start = self._start, None
        if start is None or event.inaxes is not self.axes or event.xdata is None:
            return
        end = (float(event.xdata), float(event.ydata))
        if abs(end[0] - start[0]) >= SMALLEST_BOX and abs(end[1] - start[1]) >= SMALLEST_BOX:
            self.add_box(start, end)
        elif event.key in ("shift", "control", "ctrl"):
            self.add_point(end, INSIDE if event.key == "shift" else OUTSIDE)

    def add_box(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Put a box between two corners in place of the slice's box."""
        width, height = self.prompter.plane.size_xy
        # an axis counts centres: voxel 0 is drawn from -0.5 to 0.5
        xs = np.clip(np.sort([start[0], end[0]]) + 0.5, 0, width)
        ys = np.clip(np.sort([start[1], end[1]]) + 0.5, 0, height)
        before = self.prompts.get(self.slice_index)
        points = () if before is None else before.points
        box = (float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1]))
        self.prompts[self.slice_index] = VoxelPrompt(self.slice_index, 1, box, points)
        self.show()

    def add_point(self, at: tuple[float, float], inside: int) -> None:
        """Add a point."""
        width, height = self.prompter.plane.size_xy
        x, y = (
            float(np.clip(round(v), 0, n - 1)) for v, n in zip(at, (width, height), strict=True)
        )
        before = self.prompts.get(self.slice_index, VoxelPrompt(self.slice_index, 1))
        points = (*before.points, (x, y, inside))
        self.prompts[self.slice_index] = VoxelPrompt(self.slice_index, 1, before.box, points)
        self.show()

    def key(self, event: Any) -> None:
        """Another slice, clear, save or quit."""
        if event.key in TURNS:
            self.turn(TURNS[event.key])
        elif event.key == "c":
            self.prompts.pop(self.slice_index, None)
            self.show()
        elif event.key == "s":
            print(self.save())
        elif event.key == "q":
            plt.close(self.figure)

    def scroll(self, event: Any) -> None:
        """Another slice."""
        self.turn(1 if event.button == "up" else -1)

    def turn(self, step: int) -> None:
        """Go some slices on, not beyond the ends."""
        self.slice_index = int(np.clip(self.slice_index + step, 0, self.num_slices - 1))
        self.show()

    def show(self) -> None:
        """Segment and draw the slice."""
        prompt = self.prompts.get(self.slice_index)
        self.mask = None if prompt is None else self.prompter.mask(prompt)
        self.axes.clear()
        self.axes.imshow(self.prompter.picture(self.slice_index), cmap="gray")
        colour = [part / 255 for part in class_colour(1)]
        if prompt is not None and self.mask is not None:
            layer = np.zeros((*self.mask.shape, 4))
            layer[self.mask] = (*colour, 0.45)
            self.axes.imshow(layer)
            if prompt.box is not None:
                x0, y0, x1, y1 = prompt.box
                corner = (x0 - 0.5, y0 - 0.5)
                self.axes.add_patch(
                    Rectangle(corner, x1 - x0, y1 - y0, fill=False, edgecolor=colour)
                )
            for x, y, inside in prompt.points:
                self.axes.plot(x, y, "+" if inside else "x", color="lime" if inside else "red")
        number = "" if self.mask is None else f", {int(self.mask.sum())} voxels"
        self.axes.set_title(f"slice {self.slice_index} of 0 to {self.num_slices - 1}{number}")
        self.figure.canvas.draw_idle()

    def save(self) -> Path:
        """Write the masks of all prompted slices as a label file.

        Raises:
            ValueError: nothing was prompted for.
        """
        if not self.prompts:
            msg = "nothing to save: no prompt was given"
            raise ValueError(msg)
        writer = CaseLabelWriter(self.prompter.source)
        records = self.prompter.records(list(self.prompts.values()), [1])
        writer.finish(self.prompter.case, records)
        return writer.written[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Open the window."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN SCAN")
    parser.add_argument("--base", help="untouched model in place of RUN: lite_medsam or a file")
    parser.add_argument("--modality", default="mr", help="with --base: ct, mr, ... (default: mr)")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--slice", type=int, help="shown first (default: the middle)")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="where s saves")
    args = parser.parse_args(argv)
    if len(args.paths) != (1 if args.base else 2):
        parser.error("expected RUN SCAN, or --base WEIGHTS SCAN")
    if args.base:
        model = untouched_model(args.base, modality=args.modality, device=args.device)
    else:
        model = model_of_run(args.paths[0], device=args.device)
    demo = BoxDemo(ScanPrompter(model, args.paths[-1], args.out), args.slice)
    plt.show()
    plt.close(demo.figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
