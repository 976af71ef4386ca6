"""Text embeddings: a random CLIP of a few hundred parameters, with a tokenizer written by hand."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from samtune.cli import main
from samtune.networks.text_embeddings import (
    encode_names,
    load_text_embeddings,
    save_text_embeddings,
)

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory):
    """A CLIP text encoder of 8 channels whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    folder.mkdir()
    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\nl i\nli v\n")
    vocab |= {"li": len(vocab), "liv": len(vocab) + 1}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=40,
        projection_dim=6,
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"],
        pad_token_id=vocab["<|endoftext|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPTextModelWithProjection(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder)
    return folder


def test_vectors_are_the_encoders_of_each_sentence_alone(clip_dir):
    vectors = encode_names(["liver", "left kidney"], clip_dir, "an image of {}")
    assert list(vectors) == ["liver", "left kidney"]
    model = transformers.CLIPTextModelWithProjection.from_pretrained(clip_dir).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip_dir)
    for name, vector in vectors.items():
        assert vector.shape == (6,)
        assert vector.dtype == torch.float32
        with torch.no_grad():  # no padding here
            tokens = tokenizer([f"an image of {name}"], return_tensors="pt")
            expected = model(**tokens).text_embeds[0]
        torch.testing.assert_close(vector, expected / expected.norm(), rtol=1e-4, atol=1e-5)
    assert (vectors["liver"] - vectors["left kidney"]).abs().max() > 1e-2
    other = encode_names(["liver"], clip_dir, "{}")["liver"]
    assert (vectors["liver"] - other).abs().max() > 1e-2


def test_nothing_is_looked_for_on_the_network(clip_dir, tmp_path, monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    encode_names(["liver"], clip_dir)
    with pytest.raises(FileNotFoundError, match=r"holds no CLIP model: .*nothing is downloaded"):
        encode_names(["liver"], tmp_path / "openai" / "clip-vit-base-patch32")


def test_a_folder_without_a_part_is_refused(clip_dir, tmp_path):
    for name in ("config.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((clip_dir / name).read_bytes())
    with pytest.raises(FileNotFoundError, match="holds no complete CLIP model"):
        encode_names(["liver"], tmp_path)
    state = load_file(clip_dir / "model.safetensors")
    state.pop("text_projection.weight")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="no CLIP text encoder: it lacks text_projection"):
        encode_names(["liver"], tmp_path)


@pytest.mark.parametrize(
    ("names", "template", "message"),
    [
        ([], "{}", "names must be different and not empty"),
        (["a", "a"], "{}", "names must be different"),
        ([" "], "{}", "not empty"),
        (["a"], "an image", "must hold {} once"),
        (["x" * 60], "{}", "makes 62 tokens, the encoder takes 40"),
    ],
)
def test_wrong_names_and_templates(clip_dir, names, template, message):
    with pytest.raises(ValueError, match=message):
        encode_names(names, clip_dir, template)


def test_file_gives_back_names_vectors_and_facts(tmp_path):
    path = tmp_path / "names.safetensors"
    vectors = {"left kidney": torch.randn(5), "a/b ü": torch.randn(5)}
    save_text_embeddings(path, vectors, {"model": "m", "template": "{}", "more": 3})
    found = load_text_embeddings(path)
    assert found.meta == {"model": "m", "template": "{}", "more": 3}
    assert list(found.vectors) == list(vectors)
    for name, vector in vectors.items():
        assert torch.equal(found.vectors[name], vector)
    rows = found.rows(["a/b ü", "left kidney"])
    assert torch.equal(rows, torch.stack([vectors["a/b ü"], vectors["left kidney"]]))
    with pytest.raises(ValueError, match="no text embedding of 'liver', there are: left kidney"):
        found.rows(["liver"])


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="do not exist; 'samtune text' makes them"):
        load_text_embeddings(path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(ValueError, match="can't be read"):
        load_text_embeddings(path)
    save_file({"embeddings": torch.ones(1, 2)}, path)
    with pytest.raises(ValueError, match="holds no text embeddings written by samtune"):
        load_text_embeddings(path)
    header = {"kind": "text_embeddings", "format_version": 9, "names": ["a"]}
    save_file({"embeddings": torch.ones(1, 2)}, path, {"samtune": json.dumps(header)})
    with pytest.raises(ValueError, match="format_version 9, this version reads 1"):
        load_text_embeddings(path)
    header = {"kind": "text_embeddings", "format_version": 1, "names": ["a"]}
    save_file({"embeddings": torch.ones(2, 2)}, path, {"samtune": json.dumps(header)})
    with pytest.raises(ValueError, match="damaged: 1 names, 2 vectors"):
        load_text_embeddings(path)


@pytest.mark.parametrize(
    ("vectors", "meta", "message"),
    [
        ({}, {"model": "m", "template": "{}"}, "vectors must be of one length each"),
        ({"a": torch.ones(2), "b": torch.ones(3)}, {}, "vectors must be of one length each"),
        ({"a": torch.ones(2)}, {"model": "m"}, "meta lacks template"),
    ],
)
def test_what_is_not_written(tmp_path, vectors, meta, message):
    with pytest.raises(ValueError, match=message):
        save_text_embeddings(tmp_path / "x.safetensors", vectors, meta)
    assert list(tmp_path.iterdir()) == []


def test_command_writes_the_file_and_replaces_none(clip_dir, tmp_path, capsys):
    out = tmp_path / "names.safetensors"
    line = ["text", "liver", "spleen", "--clip", str(clip_dir), "--out", str(out)]
    assert main(line) == 0
    assert capsys.readouterr().out == f"{out}\n"
    found = load_text_embeddings(out)
    assert list(found.vectors) == ["liver", "spleen"]
    assert found.meta == {"model": "tiny-clip", "template": "a medical image of {}"}
    expected = encode_names(["liver"], clip_dir)["liver"]
    torch.testing.assert_close(found.vectors["liver"], expected, rtol=1e-4, atol=1e-5)
    assert main(line) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*line, "--force", "--template", "{}"]) == 0
    assert load_text_embeddings(out).meta["template"] == "{}"
    assert main(["text", "x", "--clip", str(tmp_path / "no"), "--out", str(tmp_path / "y")]) == 1
    assert "holds no CLIP model" in capsys.readouterr().err
