from pathlib import Path

import pytest
from monai.bundle import ConfigParser, create_workflow

from samtune.training.bundle_call import BundleCall, bundle_call, merged_config
from samtune.training.config_keys import check_config

CONFIGS = Path(__file__).resolve().parents[2] / "bundles/sam_finetune/configs"
RUN_IDS = ("initialize", "training", "finalize")


def call(*overlays, base="train", known=True, **overrides):
    """As MONAI merges files and overrides."""
    files = [str(CONFIGS / f"{base}.yaml"), *map(str, overlays)]
    parser = ConfigParser()
    parser.read_config(files)
    parser.update(overrides)
    config = {key: value for key, value in parser.get().items() if key != "_meta_"}
    if not known:
        return BundleCall(config, RUN_IDS, None, None)
    return BundleCall(config, RUN_IDS, tuple(files), tuple(overrides))


def method(name):
    return CONFIGS / "methods" / f"{name}.yaml"


@pytest.mark.parametrize(
    "overlay", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_overlay_passes(overlay):
    # its command says what it comes after
    first = [CONFIGS / "prompted.yaml"] if "prompted.yaml" in overlay.read_text() else []
    check_config("train", call(*first, overlay))


@pytest.mark.parametrize("base", ["train", "evaluate", "inference", "zero_shot"])
def test_the_configs_pass_as_they_are(base):
    check_config(base, call(base=base))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("base", "overrides", "message"),
    [
        ("train", {"rnak": 4}, r"no key 'rnak' in train\.yaml, nearest is 'rank'"),
        ("train", {"learning_rat": 1}, r"'learning_rat' .* nearest is 'learning_rate'"),
        ("train", {"xyzzy": 1}, r"no key 'xyzzy' in train\.yaml, none is near"),
        ("train", {"train::handler": []}, r"'train::handler' in train, .* 'train::handlers'"),
        ("train", {"optimizer::weight_decy": 0}, r"nearest is 'optimizer::weight_decay'"),
        ("inference", {"output": "x"}, r"no key 'output' in inference\.yaml, .* 'output_dir'"),
        ("evaluate", {"tolerance": [1]}, r"nearest is 'tolerance_mm'"),
    ],
)
def test_a_misspelt_key_names_the_nearest(base, overrides, message, known):
    with pytest.raises(ValueError, match=message):
        check_config(base, call(base=base, known=known, **overrides))


def test_a_key_that_the_method_lacks():
    check_config("train", call(alpha=4))
    with pytest.raises(ValueError, match=r"method vera has no 'alpha': it takes targets, rank, "):
        check_config("train", call(method("vera"), alpha=4))
    # the default's own value, which can only be known from the call itself
    with pytest.raises(ValueError, match=r"method vera has no 'alpha'"):
        check_config("train", call(method("vera"), alpha=16))
    check_config("train", call(method("vera"), known=False, alpha=16))


def test_a_key_of_ones_own_must_be_referred_to(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("rate: 0.01\nlearning_rate: '@rate'\n")
    check_config("train", call(own))
    own.write_text("rate: 0.01\nlearning_rate: $2 * @rate\n")
    check_config("train", call(own))
    own.write_text("rate: 0.01\n")
    with pytest.raises(ValueError, match=r"no key 'rate' in train\.yaml, .* to by @rate"):
        check_config("train", call(own))
    own.write_text("imports: [$import math]\nfinalize: [$None]\nepochs: 3\n")
    check_config("train", call(own))


def test_an_overlay_is_checked_as_a_command_line_is(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("alpha: 16\n")
    with pytest.raises(ValueError, match="method vera has no 'alpha'"):
        check_config("train", call(method("vera"), own))


def test_the_call_is_found_from_an_expression(tmp_path):
    assert bundle_call() is None
    assert merged_config() is None
    check_config("train")  # nothing to check
    config = tmp_path / "config.yaml"
    config.write_text(
        "where: here\nnumber: 1\n"
        "found: $__import__('samtune.training.bundle_call').training.bundle_call.bundle_call()\n"
        "initialize: [$None]\nrun: ['$@found']\n"
    )
    workflow = create_workflow(
        config_file=str(config), logging_file=False, number=7, where=tmp_path, workflow_type=None
    )
    (found,) = workflow.run()  # outside of create_workflow: the workflow alone is known
    assert (found.config["number"], found.run_ids) == (7, ("initialize", "run", "finalize"))
    assert (found.files, found.overrides) == (None, None)
    config.write_text(config.read_text().replace("[$None]", "['$@found']"))
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr("samtune.training.bundle_call.bundle_call", _recording(bundle_call, seen))
        create_workflow(config_file=str(config), logging_file=False, number=7)
    assert seen[0].files == (str(config),)
    assert seen[0].overrides == ("number",)


def _recording(function, seen):
    def call():
        found = function()
        seen.append(found)
        return found

    return call
