"""How a run is prompted: in training, and without chance in validation and evaluation."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from samtune.preprocessing.prompt_schemes import PRESETS, PromptScheme, scheme_of
from samtune.preprocessing.prompt_transforms import PromptsFromLabeld
from samtune.training.task import Task

# what training draws for each kind, in words of prompt_schemes
KINDS: dict[str, PromptScheme] = {
    "box": PRESETS["medsam"],
    "point": PromptScheme(num_points=1),
    "hybrid": PromptScheme(box="tight", jitter_px=(0, 20), jitter_at=1024, num_points=1),
    "clicks": PRESETS["sam_first"],
}


@dataclass(frozen=True, kw_only=True)
class PromptPlan:
    """The prompts of a run.

    Attributes:
        kind: ``box``, ``point``, ``hybrid`` or ``clicks``.
        task: each of its classes and regions is prompted for by itself.
        scheme: how training draws prompts.
        clicks: of ``clicks``: after the first prompt, in training.
        refinements: of ``clicks``: further rounds of training without a new click.
        val_clicks: of ``clicks``: clicks of validation and evaluation, the first one among them.
        seed: of all chance.
    """

    kind: str
    task: Task
    scheme: PromptScheme
    clicks: int = 8
    refinements: int = 2
    val_clicks: int = 3
    seed: int = 0

    @property
    def regions(self) -> list[list[int]]:
        """Channel indices of each class or region that is prompted for."""
        return self.task.channel_regions()

    @property
    def fixed(self) -> PromptScheme:
        """How validation and evaluation draw prompts: nothing is left to chance."""
        return self.scheme.without_chance()

    def from_label(self) -> PromptsFromLabeld:
        """The prompts of validation and evaluation, for a pipeline, before the model's frame."""
        return PromptsFromLabeld(self.regions, self.fixed, targets=self.kind == "clicks")

    @property
    def settings(self) -> dict[str, Any]:
        """What a run records."""
        settings = {"kind": self.kind, "scheme": asdict(self.scheme)}
        if self.kind == "clicks":
            names = ("clicks", "refinements", "val_clicks")
            settings |= {name: getattr(self, name) for name in names}
        return settings

    def protocol(self) -> dict[str, Any]:
        """What the companion of a table of metrics says of the prompts."""
        name = next((name for name, scheme in PRESETS.items() if scheme == self.fixed), self.kind)
        what = "one a class or region present in the slice, nothing drawn by chance"
        if self.kind == "clicks":
            name = f"clicks_{self.val_clicks}"
            what += f"; {self.val_clicks} clicks, each in the centre of the largest error so far"
        return {
            "prompt": name,
            "prompt_source": f"the reference label: {what}; slices without it are predicted empty",
            "prompt_scheme": asdict(self.fixed),
        }


def prompt_plan(
    prompts: str,
    task: Task,
    *,
    scheme: str | Mapping[str, Any] | PromptScheme = "auto",
    clicks: int = 8,
    refinements: int = 2,
    val_clicks: int = 3,
    seed: int = 0,
) -> PromptPlan:
    """The plan of a config.

    Args:
        prompts: the kind.
        scheme: ``auto``: the kind's own, see :data:`KINDS`; a preset's name, or the arguments of a
            :class:`~samtune.preprocessing.prompt_schemes.PromptScheme`.
        clicks, refinements, val_clicks, seed: see :class:`PromptPlan`.

    Raises:
        ValueError: an unknown kind, a scheme that is not of that kind, numbers below 0, or channels
            that may overlap.
    """
    if prompts not in KINDS:
        msg = f"prompts must be one of {', '.join(KINDS)}, got '{prompts}'"
        raise ValueError(msg)
    if task.channels:
        msg = (
            "prompted training has no class channels: set activation: softmax and channels: null; "
            "regions that overlap are given as regions, each is prompted for by itself"
        )
        raise ValueError(msg)
    if isinstance(scheme, Mapping):
        tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in scheme.items()
        }
        try:
            made = PromptScheme(**tuples)
        except TypeError as error:
            known = ", ".join(PromptScheme.__dataclass_fields__)
            msg = f"prompt_scheme has unknown keys: {error}; known are {known}"
            raise ValueError(msg) from error
    else:
        made = KINDS[prompts] if scheme == "auto" else scheme_of(scheme)
    has = (made.box == "tight", made.num_points > 0, made.either)
    wanted = {
        "box": (True, False, False),
        "point": (False, True, False),
        "hybrid": (True, True, False),
    }.get(prompts, has)
    if has != wanted or (prompts == "clicks" and not made.num_points):
        msg = (
            f"prompt_scheme doesn't fit prompts '{prompts}': box '{made.box}', num_points "
            f"{made.num_points}, either {made.either}"
        )
        raise ValueError(msg)
    numbers = {
        "clicks": (clicks, 0),
        "refinements": (refinements, 0),
        "val_clicks": (val_clicks, 1),
    }
    for name, (value, least) in numbers.items():
        if int(value) < least:
            msg = f"{name} must be at least {least}, got {value}"
            raise ValueError(msg)
    return PromptPlan(
        kind=prompts,
        task=task,
        scheme=made,
        clicks=int(clicks),
        refinements=int(refinements),
        val_clicks=int(val_clicks),
        seed=int(seed),
    )


def plan_of_settings(settings: Mapping[str, Any], task: Task) -> PromptPlan:
    """The inverse of :attr:`PromptPlan.settings`; the seed is of no use any more."""
    options = {k: v for k, v in settings.items() if k != "kind"}
    return prompt_plan(settings["kind"], task, **options)
