import pytest
import torch

from samtune.preprocessing.slice_transforms import IGNORED, IGNORED_REGION
from samtune.training.losses import LOSSES, class_loss


@pytest.fixture
def logits(generator):
    out = torch.randn(3, 4, 5, 6, generator=generator)
    out[:, 0] = 0
    return out.requires_grad_()


def label_of(activation, generator):
    if activation == "softmax":
        return torch.randint(0, 4, (3, 1, 5, 6), generator=generator)
    return torch.randint(0, 2, (3, 3, 5, 6), generator=generator).byte()


def without(label, activation, annotated):
    """The label as a folder has it that lacks classes: they are background."""
    label = label.clone()
    for sample, classes in enumerate(annotated):
        for number, known in enumerate(classes):
            if activation == "softmax" and not known:
                label[sample][label[sample] == number + 1] = 0
            elif not known:
                label[sample, number] = 0
    return label


BOTH = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
BATCH = pytest.mark.parametrize("batch", [True, False])
NAMES = pytest.mark.parametrize("name", list(LOSSES))
WEIGHTS = pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 4.0]])


def holes(label, activation):
    """The label without the judgement of some pixels, and the mask of these."""
    ignored = torch.zeros(label.shape[0], 1, *label.shape[2:], dtype=torch.bool)
    ignored[0, :, 1:4, 2:] = True
    ignored[2, :, 0] = True
    value = IGNORED if activation == "softmax" else IGNORED_REGION
    return label.masked_fill(ignored, value), ignored[:, 0]


@NAMES
@WEIGHTS
@BOTH
@BATCH
def test_annotated_for_all_classes_it_is_the_plain_loss(
    logits, generator, activation, batch, name, weights
):
    label = label_of(activation, generator)
    loss = class_loss(activation, name=name, batch=batch, class_weights=weights)
    target = {"label": label, "annotated": torch.ones(3, 3, dtype=torch.bool)}
    torch.testing.assert_close(loss(logits, target), loss(logits, label), rtol=1e-5, atol=1e-6)


@NAMES
@BOTH
@BATCH
def test_classes_that_are_not_annotated_have_no_gradient(
    logits, generator, activation, batch, name
):
    annotated = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1]]).bool()
    label = without(label_of(activation, generator), activation, annotated)
    loss = class_loss(activation, name=name, batch=batch)
    value = loss(logits, {"label": label, "annotated": annotated})
    value.backward()
    gradient = logits.grad[:, 1:].abs().amax((2, 3))
    assert torch.isfinite(value)
    assert torch.equal(gradient > 0, annotated)  # zero to the bit, and only there
    if activation == "softmax":
        assert (logits.grad[:, 0].abs().amax((1, 2)) > 0).all()


@NAMES
@WEIGHTS
@BOTH
@BATCH
def test_pixels_that_nobody_judged_have_no_gradient(
    logits, generator, activation, batch, name, weights
):
    label, ignored = holes(label_of(activation, generator), activation)
    value = class_loss(activation, name=name, batch=batch, class_weights=weights)(logits, label)
    value.backward()
    gradient = logits.grad[:, 1:].abs().amax(1)
    assert torch.isfinite(value)
    assert torch.equal(gradient > 0, ~ignored)  # zero to the bit, and only there


@NAMES
@BOTH
def test_what_is_said_of_unjudged_pixels_changes_nothing(logits, generator, activation, name):
    label, ignored = holes(label_of(activation, generator), activation)
    loss = class_loss(activation, name=name)
    other = logits.detach().clone()
    other[:, 1:] = torch.where(ignored[:, None], -other[:, 1:] * 3, other[:, 1:])
    assert torch.equal(loss(logits, label), loss(other, label))
    assert not torch.equal(other, logits)


@NAMES
@WEIGHTS
@BOTH
def test_unjudged_pixels_are_as_if_they_were_not_there(
    logits, generator, activation, name, weights
):
    """A column that nobody judged in any sample, against the picture without it."""
    label = label_of(activation, generator)
    value = IGNORED if activation == "softmax" else IGNORED_REGION
    without_column = [0, 1, 2, 4, 5]
    label[..., 3] = value
    loss = class_loss(activation, name=name, class_weights=weights)
    expected = loss(logits[..., without_column], label[..., without_column])
    torch.testing.assert_close(loss(logits, label), expected, rtol=1e-5, atol=1e-6)


@NAMES
@BOTH
def test_unjudged_pixels_and_classes_together(logits, generator, activation, name):
    annotated = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1]]).bool()
    label = without(label_of(activation, generator), activation, annotated)
    label, ignored = holes(label, activation)
    class_loss(activation, name=name)(logits, {"label": label, "annotated": annotated}).backward()
    expected = annotated[:, :, None, None] & ~ignored[:, None]
    assert torch.equal(logits.grad[:, 1:] != 0, expected)


@NAMES
@BOTH
def test_a_batch_that_nobody_judged_has_a_loss_without_gradient(logits, activation, name):
    value = IGNORED if activation == "softmax" else IGNORED_REGION
    shape = (3, 1, 5, 6) if activation == "softmax" else (3, 3, 5, 6)
    dtype = torch.long if activation == "softmax" else torch.uint8
    loss = class_loss(activation, name=name)(logits, torch.full(shape, value, dtype=dtype))
    loss.backward()
    assert torch.isfinite(loss)
    assert not logits.grad.any()


@BOTH
def test_a_class_that_nobody_annotates_is_as_if_it_were_not_there(logits, generator, activation):
    annotated = torch.tensor([[1, 0, 1]] * 3).bool()
    label = without(label_of(activation, generator), activation, annotated)
    found = class_loss(activation)(logits, {"label": label, "annotated": annotated})
    fewer = logits[:, [0, 1, 3]]
    label = torch.where(label == 3, 2, label) if activation == "softmax" else label[:, [0, 2]]
    expected = class_loss(activation)(fewer, label)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@BOTH
def test_one_sample_alone_gives_the_loss_of_its_own_classes(logits, generator, activation):
    annotated = torch.tensor([[0, 1, 0], [1, 0, 1], [1, 1, 1]]).bool()
    label = without(label_of(activation, generator), activation, annotated)
    loss = class_loss(activation, batch=False)
    alone = [
        loss(logits[[i]], {"label": label[[i]], "annotated": annotated[[i]]}) for i in range(3)
    ]
    values = torch.stack(alone)
    assert torch.isfinite(values).all()
    assert len(set(values.tolist())) == 3


def test_a_batch_without_any_annotated_region_has_no_loss(logits):
    label = torch.zeros(3, 3, 5, 6, dtype=torch.uint8)
    none = torch.zeros(3, 3, dtype=torch.bool)
    assert class_loss("sigmoid")(logits, {"label": label, "annotated": none}) == 0


def test_options_are_refused_with_joined_folders(logits):
    target = {"label": torch.zeros(3, 1, 5, 6), "annotated": torch.ones(3, 3).bool()}
    with pytest.raises(ValueError, match="the loss takes no options, got squared_pred"):
        class_loss(squared_pred=True)(logits, target)
