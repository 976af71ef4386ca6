#!/usr/bin/env python3
"""Serve a built-out bundle with MONAI Label and compare its answer with `samtune predict`'s.

python scripts/monai_label_check.py FULL [--python PYTHON] [--scan SCAN --expected LABEL]

Starts MONAI Label's own `monaibundle` app on a free port of this machine, sends it one scan over
HTTP and compares the label file that comes back, voxel by voxel, with the expected one: the
bundle's sample, which `samtune release` predicted, unless told otherwise.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS, ANSWER_SECONDS = 300, 300
# pydicom-seg, which MONAI Label 0.8.5 imports for DICOM SEG, does not import with pydicom 3
STUB = '"""Nothing: the installed pydicom-seg does not import."""\n'


def main() -> int:
    """Print what was found; 0: the same label file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "bundle", metavar="FULL", type=Path, help="of samtune release --materialise"
    )
    parser.add_argument("--python", default=sys.executable, help="with monailabel and samtune")
    parser.add_argument("--scan", type=Path, help="default: the bundle's sample")
    parser.add_argument("--expected", type=Path, help="its label file by samtune predict")
    args = parser.parse_args()
    if (args.scan is None) != (args.expected is None):
        parser.error("--scan and --expected go together")
    scan, expected = args.scan, args.expected
    if scan is None:
        record = json.loads((args.bundle / "sample/sample.json").read_bytes())
        scan = args.bundle / "sample/images" / record["image"]
        expected = args.bundle / "sample/expected" / record["expected"]
    with TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.nii.gz"
        with server(args.python, args.bundle.resolve(), [scan], Path(folder)) as url:
            name = scan.name.removesuffix(".gz").removesuffix(".nii")
            ask(url, args.bundle.resolve().name, name, answer)
        return compare(answer, expected)


@contextlib.contextmanager
def server(python: str, bundle: Path, scans: Sequence[Path], folder: Path) -> Iterator[str]:
    """MONAI Label with the bundle as only model and the scans as studies."""
    app, studies, path = folder / "app", folder / "studies", folder / "path"
    shutil.copytree(sample_app(python), app)
    (app / "model").mkdir(exist_ok=True)
    shutil.copytree(bundle, app / "model" / bundle.name)
    studies.mkdir()
    for scan in scans:
        shutil.copy(scan, studies)
    path.mkdir()
    if subprocess.run([python, "-c", "import pydicom_seg"], capture_output=True).returncode != 0:
        (path / "pydicom_seg.py").write_text(STUB)
        print("pydicom-seg does not import: an empty module stands for it")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [python, "-m", "monailabel.main", "start_server", "--app", str(app)]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    # ngc: bundles of the folder are taken as they are; the default asks the model zoo first
    conf = {"models": bundle.name, "zoo_source": "ngc", "sam2": "false", "skip_trainers": "true"}
    for key, value in conf.items():
        command += ["--conf", key, value]
    paths = os.pathsep.join([str(path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    log = folder / "server.log"
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths},
        )
        try:
            wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)
    print(f"MONAI Label served '{bundle.name}' on {url}")


def sample_app(python: str) -> Path:
    """The app that comes with MONAI Label."""
    code = "import sys, monailabel; print(sys.prefix); print(monailabel.__version__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{python} has no monailabel: {done.stderr.strip().splitlines()[-1]}")
    prefix, version = done.stdout.split()[-2:]
    print(f"MONAI Label {version}")
    return Path(prefix) / "monailabel/sample-apps/monaibundle"


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{url}/info/", timeout=10).read()
            return
        time.sleep(1)
    sys.exit("the server did not start:\n" + "\n".join(log.read_text().splitlines()[-15:]))


def ask(url: str, model: str, image: str, out: Path) -> None:
    """Have a study segmented and save the label file."""
    query = urllib.parse.urlencode({"image": image, "output": "image"})
    form = urllib.parse.urlencode({"params": json.dumps({"device": "cpu"})}).encode()
    request = urllib.request.Request(f"{url}/infer/{model}?{query}", form, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            out.write_bytes(response.read())
            print(f"POST /infer/{model}: {response.status}, {out.stat().st_size} bytes")
    except urllib.error.HTTPError as error:
        sys.exit(f"POST /infer/{model}: {error.code} {error.read()[:500]!r}")


def compare(answer: Path, expected: Path) -> int:
    """Print how two label files differ; 0: not at all."""
    one, two = (nib.Nifti1Image.from_filename(path) for path in (answer, expected))
    found, wanted = np.asarray(one.dataobj), np.asarray(two.dataobj)
    if found.shape != wanted.shape or not np.allclose(one.affine, two.affine, atol=1e-4):
        print(f"another grid: {found.shape}, expected {wanted.shape}\n{one.affine}\n{two.affine}")
        return 1
    different = int((found != wanted).sum())
    print(f"{different} of {wanted.size} voxels differ; labels {np.unique(wanted).tolist()}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
