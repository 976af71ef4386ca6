import pytest
import torch
from monai.losses import DiceCELoss

from samtune.training.losses import RegionLoss, class_loss


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
