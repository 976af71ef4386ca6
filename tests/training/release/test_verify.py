"""Each thing that can be wrong with a bundle is found and named."""

import json

import nibabel as nib
import numpy as np
import pytest

from samtune.cli import main
from samtune.networks import weights
from samtune.training.predict import predict
from samtune.training.release.verify import passed, verify_bundle


def states(checks):
    return {check.name: check.state for check in checks}


def failures(checks):
    return {check.name: check.detail for check in checks if check.state == "FAILED"}


@pytest.fixture
def edit(rehash):
    def change_json(bundle, name, change):
        content = json.loads((bundle / name).read_bytes())
        change(content)
        (bundle / name).write_text(json.dumps(content))
        rehash(bundle)

    return change_json


def test_a_bundle_as_released_is_verified(released, released_bare, capsys):
    assert main(["verify", str(released_bare)]) == 0
    out = capsys.readouterr().out
    assert out.strip().endswith("verified")
    assert "NOT" not in out
    assert main(["verify", str(released), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[str(released)]
    assert {check["name"]: check["state"] for check in found} == dict.fromkeys(
        ("files", "metadata", "versions", "network", "sample", "metrics"), "ok"
    )


def test_altered_files_are_named(bare, capsys):
    names = ["LICENSE", "configs/inference.yaml", "docs/metrics_test.csv"]
    for name in names:
        data = bytearray((bare / name).read_bytes())
        data[10] ^= 1
        (bare / name).write_bytes(bytes(data))
    assert list(failures(verify_bundle(bare))) == [f"file {name}" for name in names]
    assert main(["verify", str(bare)]) == 1
    assert "NOT verified" in capsys.readouterr().out


def test_an_altered_adapter_fails_by_hash_and_by_its_own(bundle):
    path = bundle / "models/adapter_best.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    checks = verify_bundle(bundle)
    found = failures(checks)
    assert "altered" in found["file models/adapter_best.safetensors"]
    assert "its tensors are not those that were saved" in found["network"]
    assert states(checks)["sample"] == "skipped"


def test_missing_and_added_files(bare):
    (bare / "LICENSE").unlink()
    (bare / "extra.txt").write_text("?")
    checks = verify_bundle(bare)
    assert failures(checks) == {"file LICENSE": "missing; SHA256SUMS lists it"}
    assert [c.detail for c in checks if c.state == "warning"] == ["1 not in SHA256SUMS: extra.txt"]


def test_other_versions_are_a_warning_a_newer_samtune_and_no_package_a_failure(bare, edit):
    edit(bare, "configs/metadata.json", lambda m: m.update(numpy_version="1.0.0"))
    checks = verify_bundle(bare)
    assert states(checks)["versions"] == "warning"
    assert "(released with 1.0.0)" in next(c.detail for c in checks if c.name == "versions")
    assert passed(checks)
    assert not passed(checks, strict=True)
    assert main(["verify", str(bare), "--strict"]) == 1
    packages = {"samtune": "9.0.0", "no-such-package": "1.2"}
    edit(bare, "configs/metadata.json", lambda m: m.update(required_packages_version=packages))
    details = [c.detail for c in verify_bundle(bare) if c.state == "FAILED"]
    assert details == [
        "not installed: no-such-package==1.2",
        "samtune 0.1.0 is older than 9.0.0, which made it",
    ]


def test_no_base_weights(bundle, monkeypatch):
    monkeypatch.setattr(weights, "_in_package", lambda arch: None)
    found = failures(verify_bundle(bundle))
    assert list(found) == ["network"]
    assert (
        "the weights of lite_medsam are not installed; install them with: pip" in found["network"]
    )


def test_base_weights_that_are_fetched(bundle, edit):
    """Of a run on another checkpoint than the packaged one."""
    edit(bundle, "models/run.json", lambda r: r["settings"].update(checkpoint="no_such_vit_b.pth"))
    found = failures(verify_bundle(bundle))
    assert list(found) == ["network"]
    assert "no_such_vit_b.pth" in found["network"]
    entry = f"{{path: models/no_such_vit_b.pth, url: https://x, hash_val: {'0' * 64}}}"
    (bundle / "large_files.yml").write_text(f"large_files: [{entry}]")
    edit(bundle, "models/run.json", lambda r: None)
    found = failures(verify_bundle(bundle))
    assert found["network"].startswith("no base weights: models/no_such_vit_b.pth is not there")
    assert "download_large_files --bundle_path" in found["network"]
    (bundle / "models/no_such_vit_b.pth").write_bytes(b"something else")
    found = failures(verify_bundle(bundle))
    expected = "models/no_such_vit_b.pth is not the file of large_files.yml"
    assert found == {"network": expected}


def test_other_outputs_than_recorded(bundle, rehash):
    (path,) = (bundle / "sample/expected").iterdir()
    label = nib.load(path)
    array = np.asarray(label.dataobj).copy()
    front = np.argwhere(array == 1)
    array[tuple(front[: len(front) // 2].T)] = 0
    nib.save(nib.Nifti1Image(array, label.affine, label.header), path)
    rehash(bundle)
    found = failures(verify_bundle(bundle))
    # 2 * half / (whole + half)
    assert list(found) == ["sample"]
    score = 2 * (len(front) - len(front) // 2) / (2 * len(front) - len(front) // 2)
    assert f"1: {score:.4f}" in found["sample"]
    assert "at least 0.99" in found["sample"]


def test_other_metrics_than_recorded(bundle, edit):
    edit(bundle, "sample/sample.json", lambda s: s["dice"].update(front=0.123))
    found = failures(verify_bundle(bundle))
    assert list(found) == ["metrics"]
    assert "recorded 0.1230" in found["metrics"]


def test_damaged_records_don_t_stop_the_other_checks(bundle, rehash):
    (bundle / "configs/metadata.json").write_text("{")
    (bundle / "sample/sample.json").write_text("[]")
    rehash(bundle)
    found = failures(verify_bundle(bundle))
    assert set(found) == {"metadata", "versions", "sample"}
    assert "metadata.json' is not JSON" in found["metadata"]


def test_what_is_no_bundle(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 1
    assert "it was not made by 'samtune release'" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none.zip")]) == 1
    assert "unpack an archive first" in capsys.readouterr().err


def test_predict_takes_the_bundle_as_it_takes_the_run(
    released, scored_run, tiny_volumes, test_case, tmp_path
):
    scans = tiny_volumes / "images" / f"{test_case}.nii.gz"
    one = predict(released, scans, tmp_path / "one", device="cpu", progress=False)
    two = predict(scored_run, scans, tmp_path / "two", device="cpu", progress=False)
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
