"""``samtune export`` on a finished run."""

import json
import warnings

import onnxruntime
import pytest
import torch

from samtune.cli import main
from samtune.commands.export import NORMALIZATIONS
from samtune.networks import build_sam
from samtune.networks.export import export_onnx, export_torchscript
from samtune.peft.adapt import adapt
from samtune.peft.registry import METHODS
from samtune.preprocessing.model_frame import image_to_frame
from samtune.training.network import AdaptedSegmenter
from samtune.training.run_folder import TrainedRun, load_run


def load(path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is", FutureWarning)
        return torch.jit.load(path)


@pytest.mark.slow
@torch.no_grad()
def test_a_run_is_exported_as_onnx_and_torchscript(tiny_run, tmp_path, capsys, generator):
    out = tmp_path / "exported"
    assert main(["export", str(tiny_run.path), "--out", str(out), "--format", "both"]) == 0
    names = ["model.onnx", "model.ts", "export.json"]
    assert capsys.readouterr().out.splitlines() == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    network = load_run(tiny_run.path).network()
    image = torch.rand(2, 3, 128, 128, generator=generator)
    expected = network(image)
    scripted = load(out / "model.ts")(image)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {"image": image.numpy()})
    torch.testing.assert_close(scripted, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
    about = json.loads((out / "export.json").read_text())
    assert about["classes"] == [
        {"name": "background", "label": 0, "channel": 0},
        {"name": "front", "label": 1, "channel": 1},
        {"name": "back", "label": 3, "channel": 2},
    ]
    assert (about["merged"], about["run"], about["adapter"]) == (True, "whole", "best")
    for name in names[:2]:
        file = about["files"][name]
        assert file["inputs"] == [
            {"name": "image", "dtype": "float32", "shape": ["batch", 3, 128, 128]}
        ]
        assert file["outputs"][0]["shape"] == ["batch", 3, 128, 128]
        assert file["classes"] == ["front", "back"]


def test_encoder_and_decoder_as_torchscript(tiny_run, tmp_path, capsys):
    arguments = ["--format", "torchscript", "--part", "encoder-decoder", "--adapter", "last"]
    assert main(["export", str(tiny_run.path), "--out", str(tmp_path), *arguments]) == 0
    names = ["encoder.ts", "decoder.ts", "export.json"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name) for name in names]
    encoder, decoder = (load(tmp_path / name) for name in names[:2])
    network = load_run(tiny_run.path).network("last")
    image, box = torch.rand(1, 3, 128, 128), torch.tensor([[[20.0, 30], [80, 90]]])
    with torch.no_grad():
        masks, iou = decoder(encoder(image), box, torch.tensor([[2.0, 3]]))
        expected, _ = network(image, boxes=box.view(1, 1, 4))
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-3)
    assert iou.shape == (1, 1)


def adapted(name):
    """LiteMedSAM's network at 128 pixels with a method whose values have moved."""
    network = AdaptedSegmenter(build_sam("lite_medsam", "random", 128), 2).eval()
    generator = torch.Generator().manual_seed(0)
    adapt(network, METHODS[name](), decoder="frozen", generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return network


OWN_LAYERS = [name for name, method in METHODS.items() if not method.mergeable]


@torch.no_grad()
def test_a_method_that_cannot_be_merged_is_exported_with_its_layers(
    tiny_run, tmp_path, capsys, monkeypatch
):
    network = adapted("adaptformer")
    monkeypatch.setattr(TrainedRun, "network", lambda *_: network)
    arguments = ["--out", str(tmp_path), "--format", "torchscript"]
    assert main(["export", str(tiny_run.path), *arguments]) == 0
    assert "not mergeable" in capsys.readouterr().err
    image = torch.rand(2, 3, 128, 128)
    found = load(tmp_path / "model.ts")(image)
    torch.testing.assert_close(found, network(image), rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "export.json").read_text())["merged"] is False


@pytest.mark.parametrize("name", OWN_LAYERS)
@torch.no_grad()
def test_every_such_method_can_be_traced(tmp_path, name, generator):
    network = adapted(name)
    image = torch.rand(3, 3, 128, 128, generator=generator)
    expected = network(image)
    export_torchscript(network, tmp_path / "model.ts")
    torch.testing.assert_close(load(tmp_path / "model.ts")(image), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN_LAYERS)
@torch.no_grad()
def test_every_such_method_becomes_onnx(tmp_path, name, generator):
    network = adapted(name)
    image = torch.rand(3, 3, 128, 128, generator=generator)
    expected = network(image)
    export_onnx(network, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    [logits] = session.run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_nothing_is_overwritten(tiny_run, tmp_path, capsys):
    (tmp_path / "model.onnx").write_text("mine")
    assert main(["export", str(tiny_run.path), "--out", str(tmp_path)]) == 1
    assert "model.onnx' exists already; choose another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_without_a_run(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "is not the folder of a run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_written_normalization_is_the_one_applied():
    constant = torch.full((3, 4, 4), 100.0)
    shifted = image_to_frame(constant, 4, "sam")[:, 0, 0]
    numbers = [
        [float(n) for n in text.split(")")[0].split(",")]
        for text in NORMALIZATIONS["sam"].split("(")[1:]
    ]
    mean, deviation = torch.tensor(numbers)
    torch.testing.assert_close(shifted, (100 - mean) / deviation)


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "--out", "x", "--format", "tf"]])
def test_wrong_usage_exits_2(arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["export", *arguments])
