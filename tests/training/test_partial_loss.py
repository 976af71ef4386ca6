import pytest
import torch

from samtune.training.losses import class_loss


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


@BOTH
@BATCH
def test_annotated_for_all_classes_it_is_the_plain_loss(logits, generator, activation, batch):
    label, loss = label_of(activation, generator), class_loss(activation, batch=batch)
    target = {"label": label, "annotated": torch.ones(3, 3, dtype=torch.bool)}
    torch.testing.assert_close(loss(logits, target), loss(logits, label), rtol=1e-5, atol=1e-6)


@BOTH
@BATCH
def test_classes_that_are_not_annotated_have_no_gradient(logits, generator, activation, batch):
    annotated = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1]]).bool()
    label = without(label_of(activation, generator), activation, annotated)
    loss = class_loss(activation, batch=batch)
    value = loss(logits, {"label": label, "annotated": annotated})
    value.backward()
    gradient = logits.grad[:, 1:].abs().amax((2, 3))
    assert torch.isfinite(value)
    assert torch.equal(gradient > 0, annotated)  # zero to the bit, and only there
    if activation == "softmax":
        assert (logits.grad[:, 0].abs().amax((1, 2)) > 0).all()


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
    with pytest.raises(ValueError, match="joined folders take no options of the loss, got squared"):
        class_loss(squared_pred=True)(logits, target)
