import hashlib
import json
import shutil
import subprocess

import pytest
import torch

from samtune import __version__
from samtune.peft.adapter_file import save_adapter
from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.manifest import MANIFEST_NAME, load_manifest
from samtune.training import run_record as module
from samtune.training.run_folder import RunFolder, load_run
from samtune.training.task import make_task, task_of

SETTINGS = {"epochs": 5, "peft": {"name": "lora", "rank": 2}, "device": "cpu", "zoom": [0.9, 1.1]}


@pytest.fixture
def after_an_epoch(tmp_path):
    """Call it: the run in the folder has got something to lose."""
    return lambda: (tmp_path / "runs/one/adapter_last.safetensors").touch()


@pytest.fixture
def make_folder(tiny_manifest, make_network, tmp_path):
    def make(manifest=tiny_manifest, task=None, **changes):
        return RunFolder(
            tmp_path / "runs/one",
            settings={**SETTINGS, **changes},
            manifest=manifest,
            task=task_of(tiny_manifest) if task is None else task,
            network=make_network(),
        )

    return make


def test_run_json_says_what_the_run_was_made_with(make_folder, tiny_manifest, caplog):
    folder = make_folder()
    with caplog.at_level("INFO"):
        folder.start()
    record = json.loads((folder.path / "run.json").read_text())
    assert record["settings"] == SETTINGS
    assert record["task"] == {"classes": {"1": "front", "3": "back"}, "regions": {"whole": [1, 3]}}
    assert record["network"]["base_sha256"] == "random"
    assert record["network"]["image_size"] == 32
    assert record["network"]["peft"]["method"]["rank"] == 2
    assert record["versions"]["samtune"] == __version__
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    trained = sum(p.numel() for p in folder.network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in folder.network.parameters())
    assert record["parameters"] == {"trainable": trained, "total": total}
    assert f"trainable {trained:,} of {total:,} parameters" in caplog.text
    run = load_run(folder.path)
    assert run.task == task_of(tiny_manifest)
    assert Intensity.from_dict(run.intensity) == Intensity.for_modality("mr")
    assert run.axis is None  # as asked for: the largest spacing's
    assert load_manifest(run.dataset_dir).cases == tiny_manifest.cases


def test_a_relative_dataset_is_found_from_any_folder(
    make_folder, tiny_slices, monkeypatch, tmp_path
):
    monkeypatch.chdir(tiny_slices.parent)
    folder = make_folder(manifest=load_manifest(tiny_slices.name))
    folder.start()
    monkeypatch.chdir(tmp_path)
    assert load_manifest(load_run(folder.path).dataset_dir).cases


@pytest.mark.parametrize("axis", [0, 2])
def test_an_axis_that_was_asked_for_is_kept(make_folder, tiny_manifest, axis):
    tiny_manifest.settings["axis"] = axis
    folder = make_folder()
    folder.start()
    assert load_run(folder.path).axis == axis


def test_the_same_run_may_go_on_elsewhere_and_longer(make_folder, after_an_epoch):
    make_folder().start()
    after_an_epoch()
    make_folder(device="cuda:1", epochs=9, num_workers=3).start()
    make_folder(cache_dir="features", cache_max_gib=1).start()


def test_a_run_from_before_activations_goes_on_as_softmax(make_folder, after_an_epoch):
    make_folder().start()  # its settings say nothing of it
    after_an_epoch()
    later = {"text_embeddings": None, "init_adapter": None}
    make_folder(activation="softmax", **later).start()
    with pytest.raises(FileExistsError, match="activation was 'softmax', now 'sigmoid'"):
        make_folder(activation="sigmoid", **later).start()


def test_other_channels_are_another_run(make_folder, after_an_epoch):
    regions = {"all": [1, 3], "back": [3]}
    task = make_task({1: "front", 3: "back"}, channels=regions, activation="sigmoid")
    folder = make_folder(task=task)
    folder.start()
    assert load_run(folder.path).task == task
    after_an_epoch()
    with pytest.raises(FileExistsError, match="channels were "):
        make_folder(task=make_task({1: "front", 3: "back"})).start()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zoom": [0.8, 1.1]}, r"zoom was \[0\.9, 1\.1\], now \[0\.8, 1\.1\]"),
        ({"peft": {"name": "lora", "rank": 4}}, r"peft\.rank was 2, now 4"),
        ({"peft": None}, r"peft\.name was 'lora', now None; .*"),
        ({"new_key": 1}, "new_key was None, now 1"),
    ],
)
def test_another_configuration_in_the_folder_names_the_keys(
    make_folder, changes, message, after_an_epoch
):
    make_folder().start()
    after_an_epoch()
    before = (make_folder().path / "run.json").read_bytes()
    with pytest.raises(FileExistsError, match=f"runs/one' holds another run: {message}; choose"):
        make_folder(**changes).start()
    assert (make_folder().path / "run.json").read_bytes() == before


def test_a_run_that_never_ended_an_epoch_may_be_corrected(make_folder):
    make_folder(batch_size=0).start()
    make_folder(batch_size=4).start()
    assert load_run(make_folder().path).record["settings"]["batch_size"] == 4


def test_an_adapter_of_another_run_is_refused(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run.path, tmp_path / "mixed")
    record = json.loads((run / "run.json").read_text())
    record["network"]["peft"]["method"]["rank"] += 1
    record["network"]["image_size"] = 256
    (run / "run.json").write_text(json.dumps(record))
    message = r"best.safetensors' is not of this run: image_size is 128 .*; peft.method.rank is"
    with pytest.raises(ValueError, match=message):
        load_run(run).network()


def test_other_classes_in_the_folder_are_named(make_folder, after_an_epoch):
    make_folder().start()
    after_an_epoch()
    other = make_task({1: "x", 3: "back"}, {"whole": "1+3"})
    with pytest.raises(FileExistsError, match=r"classes were .*front.* now .*'x'"):
        make_folder(task=other).start()


def test_a_checkpoint_is_known_by_its_weights_not_its_path(
    make_folder, tmp_path, monkeypatch, after_an_epoch
):
    monkeypatch.chdir(tmp_path)
    for place in ("weights", "elsewhere"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "base.pth").touch()
    folder = make_folder(checkpoint="weights/base.pth")
    folder.start()
    after_an_epoch()
    record = load_run(folder.path).record
    assert record["settings"]["checkpoint"] == str(tmp_path / "weights/base.pth")
    moved = make_folder(checkpoint="elsewhere/base.pth")
    moved.start()
    moved.network.base_sha256 = "0" * 64
    with pytest.raises(FileExistsError, match="weights had SHA-256 random, now 0000"):
        moved.start()


def test_another_normalization_is_another_run_however_it_came_about(make_folder, after_an_epoch):
    folder = make_folder(normalization="auto")
    folder.start()
    after_an_epoch()
    same = make_folder(normalization=folder.network.normalization)
    same.start()
    other = make_folder(normalization="auto")
    was = other.network.normalization
    other.network.normalization = {"sam": "medsam", "medsam": "sam"}[was]
    now = other.network.normalization
    with pytest.raises(FileExistsError, match=f"normalization was {was}, now {now}"):
        other.start()


def test_a_published_checkpoint_is_recorded_by_its_path(make_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SAMTUNE_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "sam_vit_b_01ec64.pth").touch()
    folder = make_folder(checkpoint="vit_b")
    assert folder.settings["checkpoint"] == str(tmp_path / "sam_vit_b_01ec64.pth")


def test_other_slices_are_another_run(make_folder, tiny_slices, tmp_path, after_an_epoch):
    make_folder().start()
    after_an_epoch()
    (tmp_path / "copy").mkdir()
    text = (tiny_slices / MANIFEST_NAME).read_text()
    (tmp_path / "copy" / MANIFEST_NAME).write_text(text + "\n")
    with pytest.raises(FileExistsError, match="the slices are others than those it was trained"):
        make_folder(manifest=load_manifest(tmp_path / "copy")).start()


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not the folder of a run: it has no run.json"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": 1, "sett', "is damaged: "),
        ("[]", "is damaged: expected a JSON object, found list"),
        ('{"format_version": 99}', "has format_version 99, this version reads 1"),
        ('{"format_version": 1, "settings": {}, "data": 3}', "is damaged: it lacks task, data"),
    ],
)
def test_damaged_run_json_names_the_file(tmp_path, make_folder, text, message):
    (tmp_path / "runs/one").mkdir(parents=True)
    (tmp_path / "runs/one/run.json").write_text(text)
    with pytest.raises(ValueError, match=f"run.json' {message}"):
        load_run(tmp_path / "runs/one")
    with pytest.raises(ValueError, match=f"run.json' {message}"):
        make_folder().start()  # nor is it overwritten


@pytest.fixture
def started(make_folder):
    folder = make_folder()
    folder.start()
    return folder


def test_an_adapter_that_was_not_written_yet(started):
    with pytest.raises(FileNotFoundError, match=r"adapter_best.safetensors' does not exist"):
        load_run(started.path).network()


def test_adapter_is_best_or_last(started):
    with pytest.raises(ValueError, match="'best', 'last' or, with prompts, 'none', got 'first'"):
        load_run(started.path).network("first")


def test_a_run_on_random_weights_can_not_be_used(started):
    path = started.path / "adapter_best.safetensors"
    save_adapter(path, started.network, peft=started.network.peft)
    with pytest.raises(ValueError, match=r"adapter_best.* random base weights"):
        load_run(started.path).network()


def test_trained_run_gives_the_chosen_network(tiny_run):
    run = load_run(tiny_run.path)
    trained = tiny_run.workflow.parser.get_parsed_content("network")
    last = run.network("last").state_dict()
    assert all(torch.equal(last[name], value) for name, value in trained.state_dict().items())
    assert not run.network("best").training


def test_commit_is_noted_in_a_checkout_only(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "samtune/training/run_record.py"))
    assert module.git_state() == (None, None)
    (tmp_path / "samtune/.git").mkdir(parents=True)

    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", no_git)
        assert module.git_state() == (None, None)
    (tmp_path / "samtune/.git").rmdir()
    git = ["git", "-C", str(tmp_path / "samtune"), "-c", "user.name=n", "-c", "user.email=e"]
    (tmp_path / "samtune/file").write_text("a")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "m"]):
        subprocess.run([*git, *command], check=True)
    commit, dirty = module.git_state()
    assert (len(commit), dirty) == (40, False)
    (tmp_path / "samtune/file").write_text("b")
    assert module.git_state() == (commit, True)


def test_split_and_files_are_recorded(make_folder, tiny_manifest, tmp_path):
    (tmp_path / "start.safetensors").write_bytes(b"any")
    folder = make_folder(init_adapter=str(tmp_path / "start.safetensors"))
    folder.start()
    record = load_run(folder.path).record
    for split, cases in record["data"]["split"].items():
        assert cases == sorted({row.case for row in tiny_manifest.select(split)})
    assert set(record["data"]["split"]) == {"train", "val", "test"}
    assert record["files"] == {"init_adapter": hashlib.sha256(b"any").hexdigest()}
    assert not (folder.path / "config.yaml").exists()  # no bundle: no config


@pytest.mark.parametrize("key", ["init_adapter", "text_embeddings"])
def test_a_file_may_move_but_not_change(make_folder, tmp_path, after_an_epoch, key):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    first = make_folder(**{key: str(tmp_path / "a")})
    first.start()
    after_an_epoch()
    moved = make_folder(**{key: str(tmp_path / "b")})
    moved.start()
    assert moved.run_id == first.run_id
    with pytest.raises(FileExistsError, match=f"{key} had SHA-256 .*, now"):
        make_folder(**{key: str(tmp_path / "c")}).start()
    with pytest.raises(FileExistsError, match=f"{key} had SHA-256 .*, now None"):
        make_folder().start()


def test_a_run_keeps_the_id_that_it_began_with(make_folder, after_an_epoch):
    first = make_folder()
    first.start()
    assert make_folder(zoom=[0.5, 1.1]).run_id != first.run_id
    assert make_folder(epochs=9, device="cuda", max_minutes=3).run_id == first.run_id
    after_an_epoch()
    file = first.path / "run.json"  # as an older version hashed it
    record = json.loads(file.read_text()) | {"run_id": "older"}
    file.write_text(json.dumps(record))
    again = make_folder(epochs=9)
    again.start()
    assert again.run_id == load_run(first.path).record["run_id"] == "older"


def test_a_checkpoint_within_the_first_epoch_binds_too(make_folder):
    make_folder().start()
    (make_folder().path / "checkpoint.pt").touch()
    with pytest.raises(FileExistsError, match="batch_size was None, now 4"):
        make_folder(batch_size=4).start()


def test_other_versions_are_told(make_folder, after_an_epoch, caplog):
    folder = make_folder()
    folder.start()
    after_an_epoch()
    make_folder().start()
    assert "other versions" not in caplog.text
    file = folder.path / "run.json"
    record = json.loads(file.read_text())
    record["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(record))
    make_folder().start()
    assert "goes on with other versions, to other bits: torch 1.0 -> " in caplog.text


def test_a_folder_that_cannot_be_written_is_named(make_folder, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OSError, match="runs"):
        make_folder().start()
