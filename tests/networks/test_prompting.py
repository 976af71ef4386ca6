"""Prompts of a mixed batch against ``segment_anything``'s predictor, one at a time."""

import io
import warnings

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from samtune.networks.prompting import INVALID_LOGIT, PromptBatch, group_prompts

NAN = float("nan")
SIZE = 64


@pytest.fixture
def net(make_segmenter):
    return make_segmenter("sam_vit")


@pytest.fixture
def raw():
    return torch.rand(2, 3, SIZE, SIZE) * 255


def predictor_of(net):
    return SamPredictor(Sam(net.image_encoder, net.prompt_encoder, net.mask_decoder))


def normalised(predictor, raw):
    return (raw - predictor.model.pixel_mean) / predictor.model.pixel_std


def alone(predictor, image, box=None, points=(), labels=(), mask=None):
    """Upstream's logits of one prompt that holds exactly this."""
    predictor.set_torch_image(image[None], (SIZE, SIZE))
    logits, _, _ = predictor.predict_torch(
        point_coords=torch.tensor([points]) if len(points) else None,
        point_labels=torch.tensor([labels]) if len(points) else None,
        boxes=None if box is None else torch.tensor([box]),
        mask_input=None if mask is None else mask[None, None],
        multimask_output=False,
        return_logits=True,
    )
    return logits[0, 0]


# image 0: a box; three points; a box with one point; nothing
# image 1: one point, the padding in front; a box; a full box with a mask; a mask alone
BOXES = [
    [[5.0, 8, 40, 50], [NAN] * 4, [1.0, 2, 30, 33], [NAN] * 4],
    [[NAN] * 4, [9.0, 9, 20, 60], [0.0, 0, SIZE, SIZE], [NAN, 1, 2, 3]],
]
POINTS = [
    [[], [(3.0, 4.0), (50.0, 20.0), (7.5, 61.0)], [(12.0, 30.0)], []],
    [[(33.0, 10.0)], [], [], []],
]
LABELS = [[[], [1, 0, 1], [0], []], [[1], [], [], []]]
VALID = [[True, True, True, False], [True, True, True, True]]


def mixed_batch(net):
    points, labels = torch.full((2, 4, 3, 2), 17.0), torch.full((2, 4, 3), -1)
    for i in range(2):
        for p in range(4):
            for n, (point, label) in enumerate(zip(POINTS[i][p], LABELS[i][p], strict=True)):
                slot = n if i == 0 else 2 - n
                points[i, p, slot] = torch.tensor(point)
                labels[i, p, slot] = label
    masks = torch.full((2, 4, *net.prompt_encoder.mask_input_size), NAN)
    masks[1, 2:] = torch.randn(2, *net.prompt_encoder.mask_input_size)
    return {
        "boxes": torch.tensor(BOXES),
        "points": points,
        "point_labels": labels,
        "masks": masks,
    }


@torch.no_grad()
def test_each_prompt_of_a_mixed_batch_gives_what_it_gives_alone_upstream(net, raw):
    predictor, batch = predictor_of(net), mixed_batch(net)
    logits, valid = net(normalised(predictor, raw), **batch)
    assert valid.tolist() == VALID
    for i in range(2):
        for p in range(4):
            if not VALID[i][p]:
                assert (logits[i, p] == INVALID_LOGIT).all()
                continue
            mask = batch["masks"][i, p]
            box = BOXES[i][p]
            expected = alone(
                predictor,
                raw[i],
                box=None if np.isnan(box).any() else box,
                points=POINTS[i][p],
                labels=LABELS[i][p],
                mask=None if mask.isnan().any() else mask,
            )
            scale = expected.abs().max()
            assert (logits[i, p] - expected).abs().max() <= 1e-5 * scale, (i, p)


@torch.no_grad()
def test_a_padding_point_would_have_changed_the_result(net, raw):
    """Without this the test above could pass with padding that leaks."""
    predictor = predictor_of(net)
    bare = alone(predictor, raw[0], points=[(3.0, 4.0)], labels=[1])
    padded = alone(predictor, raw[0], points=[(3.0, 4.0), (17.0, 17.0)], labels=[1, -1])
    assert (bare - padded).abs().max() > 1e-3 * bare.abs().max()


@torch.no_grad()
def test_more_padding_changes_no_bit(net, raw):
    image = raw / 100
    points, labels = torch.rand(2, 3, 2, 2) * SIZE, torch.tensor([1, 0]).expand(2, 3, 2)
    bare, _ = net(image, points=points, point_labels=labels)
    wide = torch.cat([points, torch.full((2, 3, 5, 2), NAN)], 2)
    wide_labels = torch.cat([labels, torch.full((2, 3, 5), -1)], 2)
    padded, valid = net(image, points=wide, point_labels=wide_labels)
    assert valid.all()
    assert torch.equal(padded, bare)


def test_gradients_are_those_of_the_prompts_alone(net, raw):
    image = raw / 100
    batch = mixed_batch(net)
    weight = net.image_encoder.neck[0].weight
    decoder = net.mask_decoder.output_hypernetworks_mlps[0].layers[0].weight
    target = torch.randn(2, 4, SIZE, SIZE)
    logits, valid = net(image, **batch)
    found = torch.autograd.grad(((logits * target)[valid]).sum(), [weight, decoder])
    expected = [torch.zeros_like(weight), torch.zeros_like(decoder)]
    for i in range(2):
        for p in range(4):
            if VALID[i][p]:
                single = {name: t[i : i + 1, p : p + 1] for name, t in batch.items()}
                one, _ = net(image[i : i + 1], **single)
                loss = (one[0, 0] * target[i, p]).sum()
                for total, part in zip(
                    expected, torch.autograd.grad(loss, [weight, decoder]), strict=True
                ):
                    total += part
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 0
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_a_batch_of_padding_alone_trains_nothing_and_fails_nowhere(net, raw):
    logits, valid = net(raw / 100, boxes=torch.full((2, 3, 4), NAN))
    assert not valid.any()
    assert logits.shape == (2, 3, SIZE, SIZE)
    assert (logits == INVALID_LOGIT).all()
    logits.sum().backward()
    assert not net.image_encoder.neck[0].weight.grad.any()


def test_groups_are_one_a_kind_and_hold_no_padding(net):
    batch = mixed_batch(net)
    groups, valid = group_prompts(PromptBatch(**batch))
    assert valid.tolist() == VALID
    rows = sorted(row for group in groups for row in group.rows.tolist())
    assert rows == [0, 1, 2, 4, 5, 6, 7]
    assert len(groups) == 6  # 0 and 5 are both a box alone
    for group in groups:
        assert group.boxes is None or group.boxes.isfinite().all()
        assert group.points is None or (group.points[1] >= 0).all()


@pytest.mark.parametrize(
    "names",
    [
        ("boxes",),
        ("points", "point_labels"),
        ("boxes", "points", "point_labels"),
        ("boxes", "masks"),
        ("points", "point_labels", "masks"),
        ("masks",),
    ],
    ids="-".join,
)
@torch.no_grad()
def test_uniform_path_is_upstreams_with_minus_one_as_a_token(net, raw, names):
    predictor = predictor_of(net)
    corners = (torch.rand(2, 3, 2, 2) * SIZE).sort(dim=2).values.flatten(2)
    every = {
        "boxes": corners,
        "points": torch.rand(2, 3, 4, 2) * SIZE,
        "point_labels": torch.tensor([[1, 0, 1, -1], [1, -1, -1, -1], [0, 0, 1, 1]]).repeat(
            2, 1, 1
        ),
        "masks": torch.randn(2, 3, *net.prompt_encoder.mask_input_size),
    }
    given = {name: every[name] for name in names}
    logits = net.forward_uniform(normalised(predictor, raw), **given)
    assert logits.shape == (2, 3, SIZE, SIZE)
    for i in range(2):
        predictor.set_torch_image(raw[i : i + 1], (SIZE, SIZE))
        for p in range(3):
            one = {name: tensor[i, p : p + 1] for name, tensor in given.items()}
            expected, _, _ = predictor.predict_torch(
                point_coords=one.get("points"),
                point_labels=one.get("point_labels"),
                boxes=one.get("boxes"),
                mask_input=one["masks"][:, None] if "masks" in one else None,
                multimask_output=False,
                return_logits=True,
            )
            scale = expected.abs().max()
            assert (logits[i, p] - expected[0, 0]).abs().max() <= 1e-5 * scale


@torch.no_grad()
def test_uniform_path_without_a_prompt_is_upstreams_mask_of_the_bare_image(net, raw):
    predictor = predictor_of(net)
    logits = net.forward_uniform(normalised(predictor, raw))
    assert logits.shape == (2, 1, SIZE, SIZE)
    for i in range(2):
        expected = alone(predictor, raw[i])
        assert (logits[i, 0] - expected).abs().max() <= 1e-5 * expected.abs().max()


class _Decoder(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, embedding, boxes, points, point_labels):
        return self.net.decode_uniform(embedding, boxes, points, point_labels)


def any_prompts(labels):
    corners = torch.rand(2, 1, 2, 2) * SIZE
    return (
        corners.sort(dim=2).values.flatten(2),
        torch.rand(2, 1, 2, 2) * SIZE,
        torch.tensor(labels).view(2, 1, 2),
    )


def traced(module, example):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; shapes become constants
        torch.jit.save(torch.jit.trace(module, example), buffer)
        buffer.seek(0)
        return torch.jit.load(buffer)


def exported(module, example):
    return torch.export.export(module, example).module()


@torch.no_grad()
def test_uniform_decoder_runs_in_onnxruntime_for_any_number_of_prompts(net, raw, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    embedding = net.encode(raw / 100)
    images, prompts, points = (torch.export.Dim(n, min=1, max=9) for n in ("b", "p", "n"))
    dynamic = ({0: images}, {0: images, 1: prompts}, *[{0: images, 1: prompts, 2: points}] * 2)
    boxes = torch.rand(2, 3, 4) * SIZE
    example = (embedding, boxes, torch.rand(2, 3, 2, 2) * SIZE, torch.ones(2, 3, 2).long())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own code
        program = torch.onnx.export(
            _Decoder(net).eval(), example, dynamo=True, dynamic_shapes=dynamic, verbose=False
        )
        program.save(tmp_path / "decoder.onnx")
    session = ort.InferenceSession(tmp_path / "decoder.onnx")
    names = [entry.name for entry in session.get_inputs()]
    for number, length in ((3, 2), (1, 5)):
        labels = (torch.arange(2 * number * length) % 3 - 1).view(2, number, length)
        given = (
            embedding,
            (torch.rand(2, number, 2, 2) * SIZE).sort(dim=2).values.flatten(2),
            torch.rand(2, number, length, 2) * SIZE,
            labels,
        )
        found = session.run(None, dict(zip(names, (t.numpy() for t in given), strict=True)))[0]
        expected = net.decode_uniform(*given)
        assert found.shape == (2, number, SIZE, SIZE)
        assert (torch.from_numpy(found) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("export", [traced, exported])
@torch.no_grad()
def test_uniform_decoder_is_exported_for_any_values_of_the_prompts(net, raw, export):
    embedding = net.encode(raw / 100)
    loaded = export(_Decoder(net).eval(), (embedding, *any_prompts([1, 1, 1, 1])))
    other = any_prompts([0, 1, -1, 0])  # labels that the export never saw
    expected = net.decode_uniform(embedding, *other)
    assert (loaded(embedding, *other) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no prompt: give boxes"),
        ({"boxes": torch.zeros(2, 4)}, r"boxes must have 3 axes, the last of 4, got \(2, 4\)"),
        ({"boxes": torch.zeros(2, 3, 5)}, r"boxes must have 3 axes, the last of 4"),
        ({"masks": torch.zeros(2, 3, 5)}, r"masks must have 4 axes, got \(2, 3, 5\)"),
        (
            {"points": torch.zeros(1, 2, 3, 2), "point_labels": torch.zeros(1, 2, 4)},
            r"point_labels must be \(1, 2, 3\) for points \(1, 2, 3, 2\), got \(1, 2, 4\)",
        ),
    ],
)
def test_wrong_shapes_are_refused(given, message):
    names = ("boxes", "points", "point_labels", "masks")
    with pytest.raises(ValueError, match=message):
        PromptBatch(**{name: given.get(name) for name in names})


def test_another_point_label_is_refused(net, raw):
    with pytest.raises(ValueError, match=r"must be 1 \(inside\), .*got \[2\]"):
        net(
            raw / 100,
            points=torch.zeros(2, 1, 2, 2),
            point_labels=torch.tensor([[[1, 2]], [[1, -1]]]),
        )
