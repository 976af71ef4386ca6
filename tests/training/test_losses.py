import pytest
import torch
from monai.losses import DiceCELoss, DiceFocalLoss

from samtune.training.losses import LOSSES, RegionLoss, class_loss


@pytest.fixture
def logits(generator):
    out = torch.randn(2, 4, 5, 6, generator=generator)
    out[:, 0] = 0
    return out.requires_grad_()


def test_softmax_loss_is_monais_bit_for_bit(logits, generator):
    label = torch.randint(0, 4, (2, 1, 5, 6), generator=generator)
    expected = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    assert torch.equal(class_loss()(logits, label), expected(logits, label))


def test_region_loss_is_dice_and_binary_cross_entropy_of_each_channel(logits, generator):
    target = torch.randint(0, 2, (2, 3, 5, 6), generator=generator).byte()
    t, p = target.double(), logits[:, 1:].double().sigmoid()
    cross_entropy = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    axes = (0, 2, 3)  # over the batch
    dice = 1 - (2 * (t * p).sum(axes) + 1e-5) / (t.sum(axes) + p.sum(axes) + 1e-5)
    found = class_loss("sigmoid")(logits, target)
    torch.testing.assert_close(found.double(), cross_entropy + dice.mean(), rtol=1e-5, atol=1e-5)


def test_overlapping_regions_can_all_be_right():
    """The softmax cross entropy over channels could not be near 0 here."""
    target = torch.ones(1, 2, 4, 4)
    logits = torch.cat([torch.zeros(1, 1, 4, 4), torch.full((1, 2, 4, 4), 20.0)], 1)
    assert RegionLoss()(logits, target) < 1e-4
    assert DiceCELoss(sigmoid=True)(logits[:, 1:], target) > 0.5


def test_the_background_channel_gets_no_gradient(logits):
    class_loss("sigmoid")(logits, torch.ones(2, 3, 5, 6)).backward()
    assert not logits.grad[:, 0].any()
    assert logits.grad[:, 1:].any()


def test_a_label_of_indices_is_no_target_of_regions(logits):
    with pytest.raises(ValueError, match=r"needs a target of 3 regions \(ToTargetd\), got \(2, 1,"):
        class_loss("sigmoid")(logits, torch.zeros(2, 1, 5, 6))
    with pytest.raises(ValueError, match="activation must be 'softmax' or 'sigmoid', got 'tanh'"):
        class_loss("tanh")


# each term written out from its definition, for a label of four classes

AXES = (0, 2, 3)  # over the batch
WEIGHTS = [0.5, 1.0, 2.0, 4.0]


def overlap(probabilities, target, kind):
    both = (probabilities * target).sum(AXES)
    sizes = probabilities.sum(AXES) + target.sum(AXES)
    shares = 2 * both / sizes if kind == "dice" else both / (sizes - both)
    return (1 - shares).mean()


def binary(logits, target, weights, gamma=0):
    """-(1 - p_t) ** gamma log(p_t) of each channel, by weight of the channel."""
    p = logits.sigmoid()
    right = torch.where(target > 0, p, 1 - p)
    values = -((1 - right) ** gamma) * right.log()
    weights = values.new_tensor(weights)
    return (values.mean(AXES) * weights).sum() / weights.sum()


def by_definition(name, activation, logits, label, weights):
    logits = logits.double()
    if activation == "softmax":
        target = torch.stack([label[:, 0] == c for c in (1, 2, 3)], 1).double()
        probabilities = (logits.exp() / logits.exp().sum(1, keepdim=True))[:, 1:]
    else:
        target, probabilities = label.double(), logits[:, 1:].sigmoid()
    foreground = logits[:, 1:]
    if name in ("dice_ce", "ce") and activation == "softmax":
        rest = 1 - target.sum(1, keepdim=True)
        every = torch.cat([rest, target], 1) * logits.new_tensor(weights)[:, None, None]
        log = logits - logits.exp().sum(1, keepdim=True).log()
        pixels = -(every * log).sum() / every.sum()
    else:
        pixels = binary(foreground, target, weights[1:], gamma=2 if name == "dice_focal" else 0)
    kind = {"bce_iou": "iou", "ce": None}.get(name, "dice")
    return pixels if kind is None else overlap(probabilities, target, kind) + pixels


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_each_loss_is_the_sum_of_its_terms(logits, generator, name, activation, weights):
    label = torch.randint(0, 4, (2, 1, 5, 6), generator=generator)
    if activation == "sigmoid":
        label = torch.randint(0, 2, (2, 3, 5, 6), generator=generator).byte()
    found = class_loss(activation, name=name, class_weights=weights)(logits, label)
    expected = by_definition(name, activation, logits, label, weights or [1.0] * 4)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_dice_and_focal_is_monais_bit_for_bit(logits, generator):
    label = torch.randint(0, 4, (2, 1, 5, 6), generator=generator)
    expected = DiceFocalLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    assert torch.equal(class_loss(name="dice_focal")(logits, label), expected(logits, label))


def test_equal_weights_are_none(logits, generator):
    label = torch.randint(0, 4, (2, 1, 5, 6), generator=generator)
    found = class_loss(class_weights=[3, 3, 3, 3])(logits, label)
    torch.testing.assert_close(found, class_loss()(logits, label))


def test_an_unknown_loss_names_the_known_ones():
    with pytest.raises(ValueError, match=r"loss_name must be one of dice_ce, .*, ce, got 'dice'"):
        class_loss(name="dice")
