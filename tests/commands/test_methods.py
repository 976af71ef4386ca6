import json

import pytest

from samtune.cli import main
from samtune.peft.registry import METHODS

VIT_B = 93_735_472


@pytest.fixture
def rows(capsys):
    def table(*arguments):
        assert main(["methods", "--json", *arguments]) == 0
        return {row["method"]: row for row in json.loads(capsys.readouterr().out)}

    return table


def test_json_has_every_method_with_its_counts(rows):
    table = rows("--backbone", "vit_b")
    assert list(table) == list(METHODS)
    assert table["ssam"]["trainable"] == 73_728
    assert table["ssam"]["percent"] == pytest.approx(100 * 73_728 / VIT_B)
    assert table["ssam"]["file_bytes"] == 4 * 73_728
    assert table["lora"]["mergeable"] is True
    assert table["adaptformer"]["mergeable"] is False
    assert table["lora"]["identity"] == "exact"


def test_decoder_in_full_is_counted_apart(rows):
    row = rows("--decoder", "full")["sam_adapter"]
    assert row["components"] == {
        "encoder": 400_928,
        "prompt encoder": 0,
        "decoder": 4_058_340,
    }


def test_blocks_act(rows):
    assert rows("--blocks", "last:6")["blocks"]["trainable"] == 42_573_568


def test_what_a_backbone_lacks_is_said(rows):
    row = rows("--backbone", "lite_medsam")["pos_embed"]
    assert row["trainable"] is None
    assert "no absolute position embedding" in row["note"]


def test_text_has_a_line_a_method(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(METHODS)


def test_unknown_backbone(capsys):
    assert main(["methods", "--backbone", "vit_x"]) == 1
    assert "unknown architecture 'vit_x'" in capsys.readouterr().err


@pytest.mark.parametrize("blocks", ["last:99", "foo"])
def test_blocks_that_do_not_exist(capsys, blocks):
    assert main(["methods", "--blocks", blocks]) == 1
    assert "expected 'all', 'last:N'" in capsys.readouterr().err


def test_percent_and_file_are_the_encoder_s(rows):
    row = rows("--decoder", "full")["salt"]
    assert row["percent"] == pytest.approx(100 * 546_816 / VIT_B)
    # trained values, and of each layer 768 singular values with their signs' rows
    assert row["file_bytes"] == 4 * (546_816 + 48 * 2 * 768)
