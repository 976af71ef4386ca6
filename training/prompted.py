"""What prompted training puts in the place of its prompt-free parts: data, batches, inferer."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from samtune.preprocessing.prompt_transforms import PROMPT_KEYS, PromptsFromLabeld
from samtune.preprocessing.slice_transforms import IGNORED, ToClassMapd, ToMasksd
from samtune.training.clicks import Clicks, best_masks
from samtune.training.ensemble import batch_keys
from samtune.training.features import Item, PrepareSlices, SliceDataset
from samtune.training.prompt_plan import PromptPlan
from samtune.training.run_folder import TrainedRun

SEED = "prompt_seed"
MAX_SEED = 2**31


class PromptedSlices(SliceDataset):
    """Training slices with prompts drawn by seed, epoch and slice alone.

    They are made from the label as training sees it, after all random transforms, cached views
    among them. ``targets`` (``P 1 s s`` bool) is what each prompt asks for.

    Args:
        prompts: the run's.
        args, options: of :class:`SliceDataset`.
    """

    def __init__(self, *args: Any, prompts: PromptPlan, **options: Any) -> None:
        super().__init__(*args, **options)
        self.draw = PromptsFromLabeld(
            prompts.regions, prompts.scheme, seed=prompts.seed, targets=True
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of ``epoch``."""
        super().set_epoch(epoch)
        self.draw.set_epoch(epoch)

    def __getitem__(self, index: int) -> Item:
        item = super().__getitem__(index)
        # all of the frame: random transforms may have moved the slice into its padding
        size_hw = item.pop("size_hw")
        item = dict(self.draw(item))
        item["size_hw"] = size_hw
        item[SEED] = int(self.draw.generator(item).integers(MAX_SEED))
        return item


class PreparePrompts:
    """``prepare_batch`` of prompted training and evaluation.

    Pixels that nobody judged have no part in the loss, and are not clicked on.

    Args:
        plan: the run's prompts.
        dataset: as for :class:`PrepareSlices`.
        training: the target is what the prompts ask for, clicks are drawn by chance.
    """

    def __init__(
        self, plan: PromptPlan, dataset: SliceDataset | None = None, *, training: bool = False
    ) -> None:
        self.plan = plan
        self.training = training
        self.prepare = PrepareSlices(dataset, (*PROMPT_KEYS, "owners"))

    def __call__(
        self,
        batch: Mapping[str, Any],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Any, tuple[()], dict[str, Any]]:
        """Image, target and the network's keywords."""
        image, target, none, keywords = self.prepare(batch, device, non_blocking, **options)
        clicked = self.plan.kind == "clicks"
        judged = _judged(target)
        if self.training or clicked:
            targets = batch["targets"][:, :, 0].to(device=device)
        if clicked:
            keywords["clicks"] = Clicks(
                targets,
                self.plan.clicks if self.training else self.plan.val_clicks - 1,
                self.plan.refinements if self.training else 0,
                seeds=batch[SEED] if self.training else None,
                sizes_hw=None if self.training else batch["size_hw"],
                judged=None if judged is None else judged[:, 0],
            )
        if not self.training:
            return image, target, none, keywords
        if judged is None:
            return image, targets, none, keywords
        return image, {"targets": targets, "judged": judged}, none, keywords


def _judged(target: Tensor | Mapping[str, Tensor] | None) -> Tensor | None:
    """``B 1 h w`` bool; ``None``: all pixels are."""
    label = target["label"] if isinstance(target, Mapping) else target
    if label is None:
        return None
    judged: Tensor = label != IGNORED
    return None if judged.all() else judged


class PromptedInferer:
    """Runs the network on a prompted batch.

    Args:
        plan: the run's prompts.
        training: give all that the loss takes; else logits ``b r s s`` of the classes and regions
            that are scored, of several prompts for one the largest, -inf where there is none.
    """

    def __init__(self, plan: PromptPlan, *, training: bool = False) -> None:
        self.plan = plan
        self.training = training

    def __call__(
        self,
        image: Tensor,
        network: Any,
        *args: Any,
        owners: Tensor,
        **keywords: Any,
    ) -> dict[str, Tensor] | Tensor:
        """What :class:`samtune.training.prompt_loss.PromptLoss` takes, or logits."""
        points = keywords["points"]
        if points.shape[2] == 0:
            keywords |= {"points": None, "point_labels": None}
        found = network(image, **keywords)
        if "clicks" in keywords:
            rounds = cast(dict[str, Tensor], found)
            if self.training:
                return rounds
            logits, valid = best_masks(rounds), rounds["valid"]
        else:
            logits, valid = found
            if self.training:
                return {"logits": logits, "valid": valid}
        logits = logits.masked_fill(~valid[..., None, None], -torch.inf)
        return by_region(logits, owners, len(self.plan.regions))


def by_region(logits: Tensor, owners: Tensor, number: int) -> Tensor:
    """Masks ``b p s s`` of prompts as ``b number s s`` of their regions: the union.

    Args:
        owners: ``b p``: region of each prompt, -1 of padding.
    """
    out = logits.new_full((logits.shape[0], number, *logits.shape[2:]), -torch.inf)
    for region in range(number):
        mine = (owners == region)[..., None, None]
        masked = logits.masked_fill(~mine, -torch.inf)
        if masked.shape[1] > 0:
            out[:, region] = masked.amax(1)
    return out


class RunPrompts:
    """The parts of an evaluation that depend on whether a run was trained with prompts.

    Args:
        trained: the run.
        network: that is evaluated.

    Attributes:
        plan: its prompts, ``None`` if it has none.
        transform: for the pipeline, before the model's frame.
        prepare_batch, inferer, postprocessing: for MONAI's evaluator.
        protocol: for the companion of the metrics.
    """

    def __init__(self, trained: TrainedRun, network: nn.Module) -> None:
        task = trained.task
        self.plan = trained.prompts
        if self.plan is None:
            self.transform: Any = _as_it_is
            self.prepare_batch: Any = PrepareSlices(keys=batch_keys(network))
            self.inferer: Any = SimpleInferer()
            self.postprocessing: Any = ToClassMapd(task.class_values, task.paint)
            self.protocol: dict[str, Any] = {"prompt": "none"}
            return
        self.transform = self.plan.from_label()
        self.prepare_batch = PreparePrompts(self.plan)
        self.inferer = PromptedInferer(self.plan)
        self.postprocessing = ToMasksd()
        self.protocol = self.plan.protocol()


def _as_it_is(item: Item) -> Item:
    return item
