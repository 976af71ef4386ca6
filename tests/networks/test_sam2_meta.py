"""SAM 2 against Meta's own package, where it is installed: its predictor end to end, its settings.

``sam2`` is no dependency: put the folder ``sam2`` of facebookresearch/sam2, and ``hydra-core`` and
``iopath``, on ``PYTHONPATH`` to run this.
"""

import numpy as np
import pytest
import torch

from samtune.networks import SamSegmenter
from samtune.networks.build import assemble_sam, build_sam
from samtune.networks.checkpoints import load_strictly, read_state_dict
from samtune.networks.sam2_convert import convert, recognise

# its imports and its configuration library warn of deprecations
pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = 128
NAMES = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}


@pytest.fixture(scope="module")
def build_meta():
    """``build_meta(config, *overrides)``: their model, untrained."""
    try:
        from sam2.build_sam import build_sam2
    except ImportError as error:
        pytest.skip(f"Meta's sam2 is not installed: {error}")

    def build(config, *overrides):
        return build_sam2(
            f"configs/{config}.yaml",
            device="cpu",
            apply_postprocessing=False,
            hydra_overrides_extra=[f"++model.{override}" for override in overrides],
        )

    return build


@pytest.fixture(params=["sam2/sam2_hiera_t", "sam2.1/sam2.1_hiera_t"])
def tiny(request, build_meta, generator):
    """Their model, as small as conftest's ``hiera``, with random weights."""
    model = build_meta(
        request.param,
        f"image_size={SIZE}",
        "image_encoder.trunk.embed_dim=16",
        "image_encoder.trunk.num_heads=2",
        "image_encoder.trunk.stages=[1,2,3,1]",
        "image_encoder.trunk.global_att_blocks=[4]",
        "image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim > 1:
                scale = 1.5 * max(tensor[0].numel(), 1) ** -0.5
                tensor.normal_(0, scale, generator=generator)
            elif name.endswith("weight"):
                tensor.uniform_(0.7, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.1, generator=generator)
    return model


@pytest.fixture
def predictor(tiny):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    out = SAM2ImagePredictor(tiny)
    out._bb_feat_sizes = [(SIZE // s, SIZE // s) for s in (4, 8, 16)]  # fixed to those of 1024
    return out


@pytest.fixture
def net(tiny, tmp_path, make_encoder):
    """Ours, from a file as Meta publishes them."""
    path = tmp_path / "sam2_hiera.pt"
    torch.save({"model": tiny.state_dict()}, path)
    state = read_state_dict(path)
    assert recognise(state)
    encoder = make_encoder("hiera", image_size=SIZE)
    sam = assemble_sam(encoder, arch="tiny", image_size=SIZE, normalization="sam")
    load_strictly(sam, convert(state), source="file")
    return SamSegmenter(sam, 1).eval()


@pytest.mark.parametrize("kind", ["box", "points", "box and points", "mask", "box and mask"])
@torch.no_grad()
def test_masks_are_those_of_the_image_predictor(predictor, net, kind):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    predictor.set_image(image)
    box = np.array([10.0, 20.0, 90.5, 100.0], np.float32)
    points = rng.uniform(0, SIZE, (3, 2)).astype(np.float32)
    labels = np.array([1, 0, 1])
    coarse = rng.normal(0, 5, (1, SIZE // 4, SIZE // 4)).astype(np.float32)
    theirs, ours = {}, {}
    if "box" in kind:
        theirs["box"] = box
        ours["boxes"] = torch.tensor(box)[None, None]
    if "points" in kind:
        theirs |= {"point_coords": points, "point_labels": labels}
        ours |= {
            "points": torch.tensor(points)[None, None],
            "point_labels": torch.tensor(labels)[None, None],
        }
    if "mask" in kind:
        theirs["mask_input"] = coarse
        ours["masks"] = torch.tensor(coarse)[None]
    masks, _, _ = predictor.predict(multimask_output=False, return_logits=True, **theirs)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = (torch.tensor(image).permute(2, 0, 1) / 255 - mean) / deviation
    logits, _ = net(x[None], **ours)
    expected = torch.tensor(masks)
    assert expected.std() > 0.1
    assert (logits[0] - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("size", list(NAMES))
@pytest.mark.parametrize("version", ["sam2", "sam2.1"])
def test_published_sizes_have_their_names_shapes_and_windows(build_meta, version, size):
    theirs = build_meta(f"{version}/{version}_hiera_{size}")
    with torch.device("meta"):
        own = build_sam(f"{version}_{NAMES[size]}", "random")
    converted = convert({n: t.to("meta") for n, t in theirs.state_dict().items()})
    shapes = {name: tensor.shape for name, tensor in own.state_dict().items()}
    assert {name: tensor.shape for name, tensor in converted.items()} == shapes
    blocks = theirs.image_encoder.trunk.blocks
    assert [b.window_size for b in own.image_encoder.blocks] == [b.window_size for b in blocks]
    heads = [b.attn.num_heads for b in blocks]
    assert [site.num_heads for site in own.image_encoder.adapter_sites()] == heads
