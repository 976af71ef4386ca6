"""Exported files, run by onnxruntime and by a torch that knows nothing of samtune."""

import json
import subprocess
import sys

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from samtune.networks import export
from samtune.networks.export import ExportError, export_onnx, export_torchscript
from samtune.networks.export_parts import make_part

KINDS = ["tiny_vit", "sam_vit"]


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(opened, *arguments):
    names = [value.name for value in opened.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, arguments, strict=True)}
    return [torch.from_numpy(out) for out in opened.run(None, feed)]


def images(segmenter, batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, *[segmenter.image_size] * 2, generator=generator)


def check_masks(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert torch.equal(found > 0, expected > 0)
    assert 0 < (expected > 0).float().mean() < 1  # both values are there


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_onnx_model_gives_our_logits_at_any_batch_size(make_segmenter, tmp_path, kind):
    segmenter = make_segmenter(kind)
    path = tmp_path / "new" / "model.onnx"
    export_onnx(segmenter, path, class_names=["liver", "spleen"])
    assert list(path.parent.iterdir()) == [path]
    opened = session(path)
    for batch in (1, 3):
        image = images(segmenter, batch)
        [logits] = run(opened, image)
        expected = segmenter(image)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
        best = expected.topk(2, dim=1).values
        clear = best[:, 0] - best[:, 1] > 1e-3  # both classes start alike: rounding would decide
        assert clear.float().mean() > 0.5
        assert torch.equal(logits.argmax(1)[clear], expected.argmax(1)[clear])
        assert expected.argmax(1).unique().numel() > 1
    assert opened.get_inputs()[0].shape == ["batch", 3, *[segmenter.image_size] * 2]
    assert opened.get_outputs()[0].shape[0] == "batch"
    about = opened.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["liver", "spleen"]
    assert (about["normalization"], about["opset"]) == ("medsam", "18")
    assert int(about["image_size"]) == segmenter.image_size
    onnx.checker.check_model(path)
    assert {entry.domain: entry.version for entry in onnx.load(path).opset_import}[""] == 18


@pytest.fixture
def decoder(make_segmenter, tmp_path):
    segmenter = make_segmenter("tiny_vit")
    export_onnx(segmenter, tmp_path / "decoder.onnx", part="decoder")
    return segmenter, session(tmp_path / "decoder.onnx")


_made = {}  # exporting takes seconds: two tests share it


@pytest.fixture
def decoder_with_mask(make_segmenter, tmp_path_factory):
    if not _made:
        segmenter = make_segmenter("sam_vit")
        path = tmp_path_factory.mktemp("masked") / "decoder.onnx"
        export_onnx(segmenter, path, part="decoder", mask_input=True)
        _made["pair"] = segmenter, session(path)
    return _made["pair"]


@pytest.mark.parametrize("fixture", ["decoder", "decoder_with_mask"])
@torch.no_grad()
def test_onnx_decoder_gives_our_masks_for_any_number_of_points(request, fixture):
    segmenter, opened = request.getfixturevalue(fixture)
    size = segmenter.image_size
    for batch in (1, 3):
        image = images(segmenter, batch)
        embedding = segmenter.encode(image)
        side = 4 * embedding.shape[-1]
        unused = [torch.randn(batch, 1, side, side), torch.zeros(batch)]
        unused = unused if fixture == "decoder_with_mask" else []
        start = torch.rand(batch, 2) * size / 2
        boxes = torch.cat([start, start + size / 3], dim=1)
        for count in (1, 2, 4):
            points = torch.rand(batch, count, 2) * size
            labels = torch.randint(0, 2, (batch, count)).float()
            # points alone: with the point that is none behind them
            none = torch.zeros(batch, 1, 2), -torch.ones(batch, 1)
            masks, iou = run(
                opened,
                embedding,
                torch.cat([points, none[0]], 1),
                torch.cat([labels, none[1]], 1),
                *unused,
            )
            expected, _ = segmenter(image, points=points[:, None], point_labels=labels[:, None])
            check_masks(masks, expected)
            assert iou.shape == (batch, 1)
            # points and a box
            masks, _ = run(
                opened,
                embedding,
                torch.cat([points, boxes.view(batch, 2, 2)], 1),
                torch.cat([labels, torch.tensor([[2.0, 3]]).expand(batch, 2)], 1),
                *unused,
            )
            expected, _ = segmenter(
                image,
                boxes=boxes[:, None],
                points=points[:, None],
                point_labels=labels[:, None],
            )
            check_masks(masks, expected)
        corners = torch.tensor([[2.0, 3]]).repeat(batch, 1)
        masks, _ = run(opened, embedding, boxes.view(batch, 2, 2), corners, *unused)
        check_masks(masks, segmenter(image, boxes=boxes[:, None])[0])
    names = [value.name for value in opened.get_inputs() + opened.get_outputs()]
    masked = ["mask_input", "has_mask_input"] if fixture == "decoder_with_mask" else []
    assert names == ["embedding", "point_coords", "point_labels", *masked, "masks", "iou"]
    assert opened.get_inputs()[1].shape == ["batch", "points", 2]


@torch.no_grad()
def test_a_mask_to_start_from_counts_where_it_is_given(decoder_with_mask):
    segmenter, opened = decoder_with_mask
    image = images(segmenter, 2)
    points, labels = torch.rand(2, 1, 2) * 64, torch.ones(2, 1)
    given = torch.randn(2, 1, 16, 16)
    masks, iou = run(
        opened,
        segmenter.encode(image),
        torch.cat([points, torch.zeros(2, 1, 2)], 1),
        torch.cat([labels, -torch.ones(2, 1)], 1),
        given,
        torch.tensor([1.0, 0.0]),
    )
    prompt = {"points": points[:, None], "point_labels": labels[:, None]}
    with_mask, _ = segmenter(image, masks=given, **prompt)
    without, _ = segmenter(image, **prompt)
    check_masks(masks, torch.stack([with_mask[0], without[1]]))
    assert not torch.allclose(with_mask[1], without[1], atol=1e-3)
    # SAM's own decoder estimates the same IoU; it takes one image
    sparse, dense = segmenter.prompt_encoder((points[1:], labels[1:]), None, None)
    _, theirs = segmenter.mask_decoder(
        segmenter.encode(image[1:]), segmenter.prompt_encoder.get_dense_pe(), sparse, dense, False
    )
    torch.testing.assert_close(iou[1:], theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_onnx_encoder_gives_our_embedding_with_its_weights_beside_it(
    make_segmenter, tmp_path, monkeypatch
):
    monkeypatch.setattr(export, "ONE_FILE_BYTES", 1000)  # as ViT-H's 2.5 GB
    segmenter = make_segmenter("sam_vit")
    export_onnx(segmenter, tmp_path / "encoder.onnx", part="encoder")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"encoder.onnx", "encoder.onnx.data"}
    image = images(segmenter, 3)
    [embedding] = run(session(tmp_path / "encoder.onnx"), image)
    torch.testing.assert_close(embedding, segmenter.encode(image), rtol=1e-4, atol=1e-4)


ALONE = """
import json, sys
sys.modules.update(samtune=None, segment_anything=None, monai=None)  # importing them fails
import torch
torch.set_num_threads(1)
inputs, files, out = sys.argv[1], sys.argv[2:-1], sys.argv[-1]
found = {}
for file in files:
    extra = {"samtune.json": ""}
    module = torch.jit.load(file, _extra_files=extra)
    for name, arguments in torch.load(inputs)[file].items():
        with torch.no_grad():
            result = module(*arguments)
        found[f"{file} {name}"] = result if isinstance(result, torch.Tensor) else list(result)
    found[f"{file} about"] = json.loads(extra["samtune.json"])["part"]
torch.save(found, out)
"""


@torch.no_grad()
def test_torchscript_runs_in_a_torch_that_knows_no_samtune(make_segmenter, tmp_path):
    inputs, expected = {}, {}
    for kind in KINDS:
        segmenter = make_segmenter(kind)
        parts = ("model", "encoder", "decoder") if kind == "sam_vit" else ("model",)
        for name in parts:
            file = str(tmp_path / f"{kind}_{name}.ts")
            export_torchscript(segmenter, file, part=name)
            expected[f"{file} about"] = name
            inputs[file] = {}
            for batch in (1, 3):
                arguments = make_part(segmenter, name).example(batch, points=batch + 1, seed=5)
                inputs[file][str(batch)] = arguments
                module = {"model": segmenter, "encoder": segmenter.encode}.get(
                    name, make_part(segmenter, name).module
                )
                out = module(*arguments)
                expected[f"{file} {batch}"] = out if isinstance(out, torch.Tensor) else list(out)
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-I", "-W", "ignore", "-c", ALONE, str(tmp_path / "inputs.pt")]
    done = subprocess.run(
        [*command, *inputs, str(tmp_path / "out.pt")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out.pt")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("about"):
            assert found[name] == value
            continue
        single = isinstance(value, torch.Tensor)
        pairs = [(found[name], value)] if single else zip(found[name], value, strict=True)
        for one, other in pairs:
            # relative to the largest value: the other process may run on other threads
            assert (one - other).abs().max() <= 1e-5 * max(1, float(other.abs().max())), name


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:FutureWarning")
@torch.no_grad()
def test_sam2_in_parts_with_its_finer_maps_in_the_embedding(make_segmenter, tmp_path):
    segmenter = make_segmenter("hiera")
    for part in ("encoder", "decoder"):
        export_torchscript(segmenter, tmp_path / f"{part}.ts", part=part)
    encoder, decoder = (torch.jit.load(tmp_path / f"{part}.ts") for part in ("encoder", "decoder"))
    image = images(segmenter, 3)
    start = torch.rand(3, 2) * 20
    boxes = torch.cat([start, start + 30], 1)
    corners = torch.cat([boxes.view(3, 2, 2), torch.zeros(3, 1, 2)], 1)
    masks, iou = decoder(encoder(image), corners, torch.tensor([[2.0, 3, -1]]).expand(3, 3))
    expected, _ = segmenter(image, boxes=boxes[:, None])
    torch.testing.assert_close(masks, expected, rtol=0, atol=1e-4)
    assert expected.std() > 1
    assert ((iou > 0) & (iou < 1)).all()


def test_the_segmenter_is_left_as_it_was(make_segmenter, tmp_path):
    segmenter = make_segmenter()
    segmenter.train()
    segmenter.mask_decoder.eval()
    segmenter.class_head.requires_grad_(False)
    modes = {name: module.training for name, module in segmenter.named_modules()}
    trained = {name for name, p in segmenter.named_parameters() if p.requires_grad}
    for part in ("model", "encoder", "decoder"):
        export_torchscript(segmenter, tmp_path / f"{part}.ts", part=part)
    assert {name: module.training for name, module in segmenter.named_modules()} == modes
    assert {name for name, p in segmenter.named_parameters() if p.requires_grad} == trained


class DependsOnValues(nn.Module):
    """As an adapter whose path depends on the image."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x) + self.calls if float(x.sum()) != 0.5 else x


@pytest.mark.parametrize("function", [export_onnx, export_torchscript])
def test_what_cannot_be_traced_is_refused_and_leaves_nothing(make_segmenter, tmp_path, function):
    segmenter = make_segmenter("sam_vit")
    segmenter.image_encoder.neck = DependsOnValues(segmenter.image_encoder.neck)
    with pytest.raises(ExportError, match=r"part 'encoder' of this 'sam_vit' network|differs by"):
        function(segmenter, tmp_path / "file", part="encoder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "options", "error", "said"),
    [
        ("", {"part": "head"}, ValueError, "unknown part 'head', expected one of: model, enc"),
        ("", {"class_names": ["a"]}, ValueError, "1 class names for a network of 2 classes"),
        ("file", {}, FileExistsError, "model.ts' exists already"),
    ],
)
def test_bad_requests(make_segmenter, tmp_path, change, options, error, said):
    segmenter = make_segmenter()
    if change == "file":
        (tmp_path / "model.ts").write_text("mine")
    with pytest.raises(error, match=said):
        export_torchscript(segmenter, tmp_path / "model.ts", **options)
    assert len(list(tmp_path.iterdir())) == (change == "file")


def test_without_onnx_the_error_says_what_to_install(make_segmenter, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'samtune\[export\]'"):
        export_onnx(make_segmenter(), tmp_path / "model.onnx")
