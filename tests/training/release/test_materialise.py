"""A bundle with full weights: MONAI's own tools run it, with samtune's network and without."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, load, onnx_export

from samtune.cli import main
from samtune.training.predict import predict
from samtune.training.release.materialise import materialise
from samtune.training.release.verify import verify_bundle
from samtune.training.release.zoo_checks import zoo_checks
from samtune.training.run_folder import load_run

ME = "/" + "home/me"  # in two pieces: no file here holds such a path
SCHEMA = Path(__file__).resolve().parents[2] / "data/meta_schema.json"
pytestmark = [
    # torch.jit is deprecated; MONAI uses it
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    # LoadImage makes every reader, whichever is asked for
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]


@pytest.fixture(scope="module")
def full(released, tmp_path_factory):
    out = tmp_path_factory.mktemp("full") / "tiny_mr_lora"
    return materialise(released, out, torchscript=True)


@pytest.fixture(scope="module")
def expected(scored_run, tiny_volumes, tmp_path_factory):
    """What ``samtune predict`` makes of some of the six scans, each of another orientation."""
    out = tmp_path_factory.mktemp("expected")

    def label_files(cases):
        names = [f"case_{case}.nii.gz" for case in cases]
        new = [tiny_volumes / "images" / name for name in names if not (out / name).is_file()]
        if new:
            predict(scored_run, new, out, device="cpu", progress=False)
        return {name: nib.load(out / name) for name in names}

    return label_files


def test_an_altered_bundle_gets_no_new_hashes(bundle, tmp_path):
    card = bundle / "docs/README.md"
    card.write_text(card.read_text().replace("0.", "1."))
    with pytest.raises(ValueError, match=r"docs/README.md' is altered: SHA-256 \w+, not \w+"):
        materialise(bundle, tmp_path / "full")
    assert not (tmp_path / "full").exists()


CPU = {"device": "$torch.device('cpu')"}


@pytest.mark.parametrize(
    ("config", "cases"),
    [
        ("inference.yaml", (1, 2, 5)),  # axes turned, exchanged, both
        ("inference_ts.yaml", (2,)),
        pytest.param("inference.yaml", range(6), marks=pytest.mark.slow),
        pytest.param("inference_ts.yaml", range(6), marks=pytest.mark.slow),
    ],
)
def test_monais_transforms_give_what_predict_gives(
    full, infer, config, cases, expected, tiny_volumes, tmp_path
):
    (tmp_path / "scans").mkdir()
    chosen = expected(cases)
    for name in chosen:
        shutil.copy(tiny_volumes / "images" / name, tmp_path / "scans")
    out = tmp_path / "out"
    infer(full, config, dataset_dir=tmp_path / "scans", output_dir=out, **CPU)
    assert {path.name for path in out.iterdir()} == set(chosen)
    for name, label in chosen.items():
        found = nib.load(out / name)
        array, wanted = np.asarray(found.dataobj), np.asarray(label.dataobj)
        assert found.get_data_dtype() == np.uint8
        np.testing.assert_allclose(found.affine, label.affine, atol=1e-5)
        assert array.shape == wanted.shape
        assert (array != wanted).sum() == 0, name
    assert {v for label in chosen.values() for v in np.unique(label.dataobj)} == {0, 1, 3}


def test_without_arguments_it_segments_the_sample(full, infer, tmp_path):
    infer(full, output_dir=tmp_path, **CPU)
    (name,) = [path.name for path in (full / "sample/expected").iterdir()]
    found, wanted = nib.load(tmp_path / name), nib.load(full / "sample/expected" / name)
    np.testing.assert_array_equal(found.dataobj, wanted.dataobj)


def test_the_torchscript_config_names_nothing_of_samtune(full):
    assert "samtune." not in (full / "configs/inference_ts.yaml").read_text()


@pytest.mark.slow
def test_the_torchscript_config_runs_where_samtune_can_t_be_imported(full, expected, tmp_path):
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'samtune':\n"
        "            raise ImportError('no samtune here')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from monai.bundle import run\n"
        f"run(config_file='configs/inference_ts.yaml', output_dir={str(tmp_path)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=full, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    labels = expected(range(6))
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(nib.load(path).dataobj, labels[path.name].dataobj)


def test_weights_are_complete_merged_and_the_runs(full, scored_run, generator):
    state = torch.load(full / "models/model.pt", weights_only=True)
    parser = ConfigParser()
    parser.read_config(str(full / "configs/inference.yaml"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(state, strict=True)
    assert not [name for name in state if "lora" in name.lower()]
    adapted = load_run(scored_run).network()
    image = torch.rand(2, 1, 128, 128, generator=generator)
    with torch.no_grad():
        found, wanted = network.segmenter(image), adapted(image)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_model_zoo_checks(full, released):
    checks = zoo_checks(full, SCHEMA)
    assert {check.name: check.detail for check in checks if check.state != "ok"} == {}
    # a release without full weights lacks exactly these
    found = {c.name for c in zoo_checks(released, SCHEMA) if c.state == "FAILED"}
    assert found == {"preferred files", "torchscript"}


def test_model_zoo_checks_find_what_is_wrong(bundle):
    metadata = json.loads((bundle / "configs/metadata.json").read_bytes())
    metadata["version"] = "0.2.0"
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 7
    del metadata["task"]
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata))
    (bundle / "LICENSE").unlink()
    (bundle / "code.py").write_text("")
    inference = bundle / "configs/inference.yaml"
    inference.write_text(inference.read_text().replace("\ninferer:", f"\nother: {ME}\nslider:"))
    found = {c.name: c.detail for c in zoo_checks(bundle, SCHEMA) if c.state == "FAILED"}
    assert "LICENSE missing" in found["needed files"]
    assert "0.2.0 is not in the changelog" in found["version"]
    assert "'task' is a required property" in found["metadata"]
    assert "lacks inferer" in found["properties"]
    assert "`3` doesn't match: `7`" in found["shapes"]
    assert ME in found["paths"]
    assert "code.py" in found["code"]


def test_the_built_out_bundle_is_verified_too(full):
    checks = verify_bundle(full)
    assert {check.name: check.detail for check in checks if check.state != "ok"} == {}


def test_properties_of_the_inference_workflow(full, released, tmp_path):
    for folder in (full, released):
        workflow = ConfigWorkflow(
            str(folder / "configs/inference.yaml"),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(folder),
            output_dir=str(tmp_path),
        )
        workflow.initialize()
        assert not workflow.check_properties()


def test_properties_of_the_training_workflow(released, tiny_slices, tmp_path):
    workflow = ConfigWorkflow(
        str(released / "configs/train.yaml"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(released),
        dataset_dir=str(tiny_slices),
        runs_dir=str(tmp_path),
        device="cpu",
    )
    workflow.initialize()
    assert not workflow.check_properties()


def test_monai_loads_network_and_script_by_name(full, tmp_path, generator):
    full = shutil.copytree(full, tmp_path / full.name)
    (full / "configs/logging.conf").unlink()  # would take pytest's handlers off the root logger
    image = torch.randint(0, 256, (1, 1, 20, 24), generator=generator).float()
    network = load(
        full.name,
        bundle_dir=str(full.parent),
        workflow_type="inference",
        source="github",
        device="cpu",
    )
    script, _, _ = load(full.name, bundle_dir=str(full.parent), load_ts_module=True, device="cpu")
    with torch.no_grad():
        found, wanted = network.eval()(image), script(image)
    assert found.shape == (1, 3, 20, 24)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_onnx_export(full, tmp_path, generator):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_export(
            net_id="network_def",
            filepath=str(tmp_path / "model.onnx"),
            ckpt_file=str(full / "models/model.pt"),
            meta_file=str(full / "configs/metadata.json"),
            config_file=str(full / "configs/inference.yaml"),
            bundle_root=str(full),
            input_shape=[1, 1, 40, 48],
        )
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    image = torch.randint(0, 256, (1, 1, 40, 48), generator=generator).float()
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    parser = ConfigParser()
    parser.read_config(str(full / "configs/inference.yaml"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(full / "models/model.pt", weights_only=True))
    with torch.no_grad():
        np.testing.assert_allclose(found, network(image).numpy(), rtol=1e-2, atol=1e-2)


def test_data_that_monai_can_t_load_keeps_samtunes_pipeline(
    bundle, rehash, infer, tmp_path, capsys
):
    path = bundle / "models/run.json"
    record = json.loads(path.read_bytes())
    record["data"]["intensity"]["scope"] = "slice"
    path.write_text(json.dumps(record))
    rehash(bundle)
    out = tmp_path / "full"
    call = ["release", str(bundle), "--materialise", str(out)]
    assert main([*call, "--torchscript"]) == 1
    assert "can't run on MONAI alone: its transforms lack intensity" in capsys.readouterr().err
    assert not out.exists()
    assert main(call) == 0
    assert not (out / "models/model.ts").exists()
    assert "RawSlices" in (out / "configs/inference.yaml").read_text()
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, target in ((bundle, one), (out, two)):
        infer(folder, output_dir=target)
    (found,), (wanted,) = two.iterdir(), one.iterdir()
    np.testing.assert_array_equal(nib.load(found).dataobj, nib.load(wanted).dataobj)
    assert main(call) == 1
    assert "exists already" in capsys.readouterr().err
