from pathlib import Path

import pytest

from samtune.training import paths
from samtune.training.paths import bundle_root, dataset_folder, run_dir


def make_slices(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_bundle_is_found_from_any_folder(tmp_path, monkeypatch, repo_root):
    monkeypatch.chdir(tmp_path)
    assert Path(bundle_root("sam_finetune")) == repo_root / "bundles/sam_finetune"
    assert (Path(bundle_root("sam_finetune")) / "configs/train.yaml").is_file()


def test_unknown_bundle_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"no bundle 'sam'.*there are: .*sam_finetune"):
        bundle_root("sam")


def test_auto_prefers_the_current_folder_to_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUNDLES", tmp_path / "checkout/bundles")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    in_checkout = make_slices(tmp_path / "checkout/runs/quickstart/slices")
    assert dataset_folder("auto") == in_checkout
    here = make_slices(tmp_path / "elsewhere/runs/quickstart/slices")
    assert dataset_folder("auto") == here


def test_without_slices_auto_says_where_it_looked_and_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUNDLES", tmp_path / "checkout/bundles")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"scripts/quickstart.sh") as caught:
        dataset_folder("auto")
    message = str(caught.value)
    assert "samtune slice IMAGES --labels LABELS" in message
    assert "--dataset_dir" in message
    assert str(tmp_path / "runs/quickstart/slices") in message
    assert str(tmp_path / "checkout/runs/quickstart/slices") in message


def test_a_given_folder_is_taken_or_named(tmp_path):
    slices = make_slices(tmp_path / "mine")
    assert dataset_folder(str(slices)) == slices
    with pytest.raises(FileNotFoundError, match=r"no slices \(manifest\.json\) in .*/other;"):
        dataset_folder(tmp_path / "other")


def test_a_run_lies_below_its_folder_of_runs(tmp_path):
    assert Path(run_dir(tmp_path, "one")) == tmp_path / "one"
    assert Path(run_dir(tmp_path, "study/fold_0")) == tmp_path / "study/fold_0"
    assert Path(run_dir("./runs", 7)) == Path("runs/7")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "", ".", "..", "a\\b"])
def test_a_run_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="run_name must be the name of a folder below runs_dir"):
        run_dir(tmp_path, name)
