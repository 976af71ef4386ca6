"""The class head: names' part of the tokens, and joining another head by class name."""

import pytest
import torch

from samtune.networks import SamSegmenter
from samtune.networks.class_head import ClassHead, join_class_head, plain_state


@pytest.fixture
def decoder(make_segmenter):
    return make_segmenter().mask_decoder


@pytest.fixture
def make_head(decoder):
    """A head of random values; with ``text``, the size of the names' embeddings."""

    def make(num_classes, text=None):
        embeddings = None if text is None else torch.randn(num_classes, text)
        head = ClassHead(decoder, num_classes, text=embeddings)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.normal_()
        return head

    return make


def test_text_changes_nothing_at_the_start_and_is_trained(decoder):
    plain, text = ClassHead(decoder, 3), ClassHead(decoder, 3, text=torch.randn(3, 5))
    assert torch.equal(text.class_tokens(), plain.class_tokens())
    text.class_tokens().square().sum().backward()
    gradient = text.text_projection.weight.grad
    assert gradient.shape == (256, 5)
    assert gradient.abs().max() > 0
    assert not text.text_embeddings.requires_grad


@torch.no_grad()
def test_tokens_are_learned_ones_plus_projected_names(make_head):
    head = make_head(3, text=5)
    expected = torch.stack(
        [head.tokens[c] + head.text_projection.weight @ head.text_embeddings[c] for c in range(3)]
    )
    torch.testing.assert_close(head.class_tokens(), expected)


@torch.no_grad()
def test_plain_state_is_a_head_without_text_of_the_same_tokens(make_head, decoder):
    head, plain = make_head(3, text=5), ClassHead(decoder, 3)
    plain.load_state_dict(head.plain_state(), strict=True)
    torch.testing.assert_close(plain.class_tokens(), head.class_tokens())
    assert torch.equal(plain.bias, head.bias)
    assert plain_state(plain.state_dict()).keys() == plain.state_dict().keys()


def test_a_head_with_text_draws_nothing_from_the_global_generator(decoder):
    before = torch.get_rng_state()
    ClassHead(decoder, 2, text=torch.ones(2, 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_row_of_text_a_class(decoder):
    with pytest.raises(ValueError, match=r"text must be \(3 classes, d\), got \(2, 5\)"):
        ClassHead(decoder, 3, text=torch.ones(2, 5))


@pytest.mark.parametrize(("text", "source_text"), [(None, None), (None, 4), (5, None), (5, 4)])
@torch.no_grad()
def test_joined_classes_are_copied_and_the_others_stay(make_head, text, source_text):
    head, source = make_head(3, text), make_head(2, source_text)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    tokens = head.class_tokens().clone()
    names, source_names = ["liver", "spleen", "kidney"], ["kidney", "liver"]
    report = join_class_head(head, names, source.state_dict(), source_names)
    assert report.joined == ("liver", "kidney")
    assert report.new == ("spleen",)
    assert report.left == ()
    for to, start in ((0, 1), (2, 0)):
        torch.testing.assert_close(
            head.class_tokens()[to], source.class_tokens()[start], rtol=1e-4, atol=1e-4
        )
        assert head.bias[to] == source.bias[start]
        other = source.hypernetworks[start].state_dict()
        own = head.hypernetworks[to].state_dict()
        assert all(torch.equal(own[name], other[name]) for name in other)
    torch.testing.assert_close(head.class_tokens()[1], tokens[1])
    own = head.state_dict()
    kept = [name for name in before if name.startswith("hypernetworks.1.")]
    assert kept
    assert all(torch.equal(own[name], before[name]) for name in kept)
    assert own["bias"][1] == before["bias"][1]


def test_report_names_what_was_left_out(make_head):
    report = join_class_head(make_head(1), ["a"], make_head(2).state_dict(), ["b", "a"])
    assert str(report) == "joined: a; new: none; left out: b"


@pytest.mark.parametrize(
    ("names", "source_names", "message"),
    [
        (["a"], ["a", "b"], "class head has 2 classes, but 1 names"),
        (["a", "b"], ["a"], "source has 2 classes, but 1 names"),
        (["a", "b"], ["c", "d"], r"no class name is shared: \['a', 'b'\] here, \['c', 'd'\]"),
        (["a", "b"], ["a", "a"], "source has two classes named 'a'"),
    ],
)
def test_what_cannot_be_joined_is_refused(make_head, names, source_names, message):
    head, source = make_head(2), make_head(2)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        join_class_head(head, names, source.state_dict(), source_names)
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


def test_a_head_of_another_width_is_refused_whole(make_head):
    head = make_head(2)
    state = {**make_head(2).state_dict(), "hypernetworks.1.layers.2.bias": torch.zeros(7)}
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    with pytest.raises(ValueError, match=r"shape \(7,\), expected \(32,\)"):
        join_class_head(head, ["a", "b"], state, ["a", "b"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a"]}, r"class_names must be 2 different names, got \['a'\]"),
        ({"class_names": ["a", "a"]}, "class_names must be 2 different names"),
        ({"activation": "relu"}, "activation must be 'softmax' or 'sigmoid', got 'relu'"),
    ],
)
def test_segmenter_refuses_wrong_names_and_activations(make_segmenter, options, message):
    net = make_segmenter()
    with pytest.raises(ValueError, match=message):
        SamSegmenter(net, 2, **options)


@torch.no_grad()
def test_segmenter_with_text_starts_as_one_without(make_segmenter):
    net = make_segmenter()
    with_text = SamSegmenter(net, 2, text=torch.randn(2, 6)).eval()
    image = torch.rand(1, 3, net.image_size, net.image_size)
    assert torch.equal(with_text(image), SamSegmenter(net, 2).eval()(image))
    with_text.class_head.text_projection.weight.normal_()
    assert not torch.allclose(with_text(image), net(image))
