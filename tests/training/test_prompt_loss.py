"""The loss of prompted masks, from its definition."""

import pytest
import torch

from samtune.training.prompt_loss import PromptLoss, mask_losses, real_iou


@pytest.fixture
def masks(generator):
    logits = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    target = torch.rand(2, 3, 8, 8, generator=generator) > 0.6
    return logits, target


def test_dice_and_binary_cross_entropy_of_one_mask(masks):
    logits, target = masks[0][0, 0], masks[1][0, 0].double()
    p = 1 / (1 + (-logits).exp())
    dice = 1 - 2 * (p * target).sum() / (p.sum() + target.sum())
    entropy = -(target * p.log() + (1 - target) * (1 - p).log())
    found = mask_losses(logits, target, "dice_bce")
    torch.testing.assert_close(found.double(), dice + entropy.mean(), rtol=1e-4, atol=1e-4)
    of_class = torch.where(target > 0, p, 1 - p)
    focal = torch.where(target > 0, 0.25, 0.75) * (1 - of_class) ** 2 * entropy
    found = mask_losses(logits, target, "dice_focal")
    torch.testing.assert_close(found.double(), dice + 20 * focal.mean(), rtol=1e-4, atol=1e-4)


def test_iou_is_that_of_the_thresholded_mask():
    target = torch.zeros(4, 4)
    target[:2] = 1
    logits = torch.full((4, 4), -1.0)
    logits[1:3] = 0.5
    assert float(real_iou(logits, target)) == pytest.approx(4 / 12)
    assert float(real_iou(torch.full((4, 4), -1.0), torch.zeros(4, 4))) == 1


@pytest.mark.parametrize("kind", ["dice_bce", "dice_focal"])
def test_what_is_no_prompt_has_no_gradient_and_no_weight(masks, kind):
    logits, target = masks[0].float().requires_grad_(), masks[1]
    valid = torch.tensor([[True, False, True], [False, False, True]])
    loss = PromptLoss(kind)({"logits": logits, "valid": valid}, target)
    loss.backward()
    assert not logits.grad[~valid].any()
    assert logits.grad[valid].flatten(1).any(1).all()
    each = mask_losses(logits, target, kind)[valid]
    torch.testing.assert_close(loss, each.mean())


def test_nothing_but_no_prompts_costs_nothing(masks):
    logits = masks[0].float().requires_grad_()
    valid = torch.zeros(2, 3, dtype=torch.bool)
    loss = PromptLoss()({"logits": logits, "valid": valid}, masks[1])
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


@pytest.fixture
def rounds(generator):
    """One image, prompts: ambiguous, not, and none."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_()

    return {
        "first": normal(1, 3, 4, 8, 8),
        "first_iou": normal(1, 3, 4),
        "later": normal(1, 3, 2, 8, 8),
        "later_iou": normal(1, 3, 2),
        "ambiguous": torch.tensor([[True, False, False]]),
        "valid": torch.tensor([[True, True, False]]),
    }


def test_of_an_ambiguous_prompt_only_the_best_of_three_masks_is_trained(rounds, masks):
    target = masks[1][:1]
    PromptLoss("dice_focal")(rounds, target).backward()
    trained = rounds["first"].grad.flatten(3).any(-1)[0]
    losses = mask_losses(rounds["first"], target[:, :, None], "dice_focal")[0]
    best = 1 + int(losses[0, 1:].argmin())
    assert trained[0].nonzero().flatten().tolist() == [best]
    assert trained[1].tolist() == [True, False, False, False]
    assert not trained[2].any()
    # its quality head learns about all three, and about the single mask elsewhere
    assert rounds["first_iou"].grad.bool()[0].tolist() == [
        [False, True, True, True],
        [True, False, False, False],
        [False] * 4,
    ]
    assert rounds["later"].grad.flatten(3).any(-1)[0].tolist() == [[True] * 2] * 2 + [[False] * 2]


def test_the_loss_of_clicks_is_the_mean_over_rounds_and_prompts(rounds, masks):
    target = masks[1][:1, :, None]
    first = mask_losses(rounds["first"], target, "dice_focal")[0]
    first_error = (rounds["first_iou"] - real_iou(rounds["first"], target))[0] ** 2
    later = mask_losses(rounds["later"], target, "dice_focal")[0]
    later_error = (rounds["later_iou"] - real_iou(rounds["later"], target))[0] ** 2
    expected = [
        first[0, 1:].min() + first_error[0, 1:].mean(),
        first[1, 0] + first_error[1, 0],
        *(later + later_error)[:2].flatten(),
    ]
    found = PromptLoss("dice_focal")(rounds, masks[1][:1])
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_unknown_loss():
    with pytest.raises(ValueError, match="mask_loss must be one of dice_bce, dice_focal, got 'x'"):
        PromptLoss("x")


@pytest.mark.parametrize("kind", ["dice_bce", "dice_focal"])
def test_pixels_that_nobody_judged_are_as_if_they_were_not_there(masks, kind):
    logits, target = masks[0].float().requires_grad_(), masks[1]
    judged = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    judged[..., :5] = True
    loss = mask_losses(logits, target, kind, judged)
    expected = mask_losses(logits[..., :5], target[..., :5], kind)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert not logits.grad[..., 5:].any()
    assert logits.grad[..., :5].all()
    iou = real_iou(logits, target, judged)
    torch.testing.assert_close(iou, real_iou(logits[..., :5], target[..., :5]))
    torch.testing.assert_close(
        mask_losses(logits, target, kind, torch.ones_like(judged)),
        mask_losses(logits, target, kind),
    )


def test_nothing_judged_is_finite(masks):
    nothing = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    assert mask_losses(masks[0], masks[1], "dice_focal", nothing).isfinite().all()


def test_unjudged_pixels_have_no_part_in_any_round(rounds, masks):
    target, judged = masks[1][:1], torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    judged[..., :5] = True
    found = PromptLoss("dice_focal")(rounds, {"targets": target, "judged": judged})
    found.backward()
    for name in ("first", "later"):
        assert not rounds[name].grad[..., 5:].any()
    part = {k: v[..., :5] if k in ("first", "later") else v for k, v in rounds.items()}
    torch.testing.assert_close(found, PromptLoss("dice_focal")(part, target[..., :5]))
    logits = masks[0].float()
    valid = torch.ones(2, 3, dtype=torch.bool)
    both = judged.expand(2, -1, -1, -1)
    torch.testing.assert_close(
        PromptLoss()({"logits": logits, "valid": valid}, {"targets": masks[1], "judged": both}),
        PromptLoss()({"logits": logits[..., :5], "valid": valid}, masks[1][..., :5]),
    )
