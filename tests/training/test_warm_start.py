"""Training from another run's adapter: its tensors, and its classes by name."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from samtune.networks.text_embeddings import save_text_embeddings
from samtune.peft.adapter_file import load_adapter, read_adapter, save_adapter
from samtune.training import network as module
from samtune.training.export import export_merged, load_class_head
from samtune.training.network import build_network, network_from_adapter

LORA = {"name": "lora", "rank": 2, "blocks": "last:1"}


@pytest.fixture
def build(packaged_weights):
    def make(names, **options):
        return build_network(
            num_classes=len(names), class_names=names, peft=LORA, decoder="frozen", **options
        )

    return make


@pytest.fixture
def trained(build, tmp_path, generator):
    """File and network of an adapter of three classes with trained-looking values."""

    def make(path=tmp_path / "trained.safetensors", extra=None, **options):
        network = build(["liver", "spleen", "aorta"], **options)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        save_adapter(path, network, peft=network.peft, extra=extra)
        return path, network.eval()

    return make


@pytest.fixture
def image(generator):
    return torch.rand(1, 1, 128, 128, generator=generator)


@torch.no_grad()
def test_shared_classes_are_the_trained_ones_and_new_ones_start_fresh(build, trained, caplog):
    path, source = trained()
    with caplog.at_level("INFO", logger=module.__name__):
        network = build(["spleen", "tumour", "liver"], init_adapter=path).eval()
    assert network.joined.joined == ("spleen", "liver")
    assert "joined: spleen, liver; new: tumour; left out: aorta" in caplog.text
    assert torch.equal(network.class_head.tokens[0], source.class_head.tokens[1])
    fresh = build(["spleen", "tumour", "liver"])
    assert torch.equal(network.class_head.tokens[1], fresh.class_head.tokens[1])
    assert torch.equal(network.class_head.bias[1], fresh.class_head.bias[1])
    for name, tensor in read_adapter(path).tensors.items():
        if not name.startswith("class_head."):
            assert torch.equal(network.state_dict()[name], tensor)


@torch.no_grad()
def test_the_same_classes_in_another_order_give_the_trained_logits(build, trained, image):
    # all of them: a token that is missing changes what the others attend to
    path, source = trained()
    network = build(["spleen", "aorta", "liver"], init_adapter=path).eval()
    found, expected = network(image)[0], source(image)[0]
    torch.testing.assert_close(found[1:], expected[[2, 3, 1]], rtol=1e-4, atol=1e-4)
    assert (expected[1] - expected[2]).abs().max() > 1e-2


@torch.no_grad()
def test_an_older_file_names_its_classes_in_its_task(build, trained, tmp_path):
    task = {"classes": {"10": "aorta", "2": "spleen", "1": "liver"}, "regions": {}}
    path, source = trained(extra={"task": task})
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["samtune"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["base"]["class_names"], header["base"]["activation"]
    old = tmp_path / "old.safetensors"
    save_file(tensors, old, {"samtune": json.dumps(header)})
    network = build(["aorta"], init_adapter=old)
    assert torch.equal(network.class_head.tokens[0], source.class_head.tokens[2])
    # and it still loads as what it is
    again, _ = network_from_adapter(old)
    assert again.activation == "softmax"
    load_adapter(source, old, peft=source.peft)
    del header["extra"]["task"]
    save_file(tensors, old, {"samtune": json.dumps(header)})
    unnamed = build(["aorta"], init_adapter=old)  # nothing to join by: the methods alone
    assert unnamed.joined.new == ("aorta",)
    assert unnamed.joined.joined == unnamed.joined.left == ()
    assert torch.equal(unnamed.class_head.tokens, build(["aorta"]).class_head.tokens)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["kidney"], {}, r"can't be joined: no class name is shared: \['kidney'\] here, \['liver"),
        (["liver"], {"image_size": 256}, "for another network: image_size is 128 in the file, 256"),
    ],
)
def test_what_cannot_be_joined(build, trained, names, options, message):
    path, _ = trained()
    with pytest.raises(ValueError, match=message):
        build(names, init_adapter=path, **options)


def test_other_methods_and_unnamed_classes_are_refused(trained):
    path, _ = trained()
    with pytest.raises(ValueError, match=r"peft\.method\.rank is 2 in the file, 4 here"):
        build_network(
            num_classes=1,
            class_names=["liver"],
            peft={**LORA, "rank": 4},
            decoder="frozen",
            init_adapter=path,
        )
    with pytest.raises(ValueError, match="joined by class name: the network needs class_names"):
        build_network(num_classes=1, peft=LORA, decoder="frozen", init_adapter=path)


def test_names_and_activation_are_compared_where_both_are_known(build, trained):
    path, _ = trained()
    base = read_adapter(path).base
    assert base["class_names"] == ["liver", "spleen", "aorta"]
    assert base["activation"] == "softmax"
    with pytest.raises(ValueError, match=r"class_names is \['liver'.* here"):
        build(["spleen", "liver", "aorta"], adapter=path)
    with pytest.raises(ValueError, match="activation is softmax in the file, sigmoid here"):
        build(["liver", "spleen", "aorta"], adapter=path, activation="sigmoid")
    with pytest.raises(ValueError, match="num_classes is 3 in the file, 2 here"):
        build(["liver", "spleen"], adapter=path)
    build_network(num_classes=3, peft=LORA, decoder="frozen", adapter=path)  # names unknown


@pytest.fixture
def embeddings(tmp_path, generator):
    path = tmp_path / "names.safetensors"
    names = ("aorta", "liver", "spleen", "other")
    vectors = {name: torch.randn(6, generator=generator) for name in names}
    save_text_embeddings(path, vectors, {"model": "tiny", "template": "{}"})
    return path, vectors


@torch.no_grad()
def test_a_head_with_text_is_rebuilt_from_its_adapter_alone(trained, embeddings, image, tmp_path):
    names_file, vectors = embeddings
    path, network = trained(text_embeddings=names_file)
    rows = torch.stack([vectors[name] for name in ("liver", "spleen", "aorta")])
    assert torch.equal(read_adapter(path).tensors["class_head.text_embeddings"], rows)
    names_file.unlink()
    rebuilt, _ = network_from_adapter(path)
    assert torch.equal(rebuilt(image), network(image))
    assert rebuilt.class_head.text_projection.weight.abs().max() > 0
    export_merged(rebuilt, tmp_path / "merged.pth")  # the head is exported without text
    plain = build_network(checkpoint=tmp_path / "merged.pth", num_classes=3).eval()
    load_class_head(plain, tmp_path / "merged_class_head.safetensors")
    torch.testing.assert_close(plain(image), network(image), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_text_leaves_step_0_alone_and_is_trained(build, embeddings, image):
    path, _ = embeddings
    names = ["liver", "other"]
    with_text = build(names, text_embeddings=path)
    without = build(names)
    assert torch.equal(with_text.eval()(image), without.eval()(image))
    more = with_text.summary.trainable - without.summary.trainable
    assert more == 6 * 256


def test_a_name_without_an_embedding_is_an_error(build, embeddings):
    with pytest.raises(ValueError, match="no text embedding of 'kidney', there are: aorta"):
        build(["kidney"], text_embeddings=embeddings[0])
    with pytest.raises(ValueError, match="need class_names"):
        build_network(num_classes=1, peft=LORA, text_embeddings=embeddings[0])


@torch.no_grad()
def test_prompted_training_goes_on_from_prompted_training_whatever_the_classes(build, trained):
    path, source = trained(prompts="box")
    network = build(["tumour"], init_adapter=path, prompts="box")
    assert network.joined.joined == ()
    for name, tensor in read_adapter(path).tensors.items():
        assert torch.equal(network.state_dict()[name], tensor)
        assert torch.equal(source.state_dict()[name], tensor)
    with pytest.raises(ValueError, match="prompts is box in the file, none here"):
        build(["liver"], init_adapter=path)
