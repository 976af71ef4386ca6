"""Folders that a bundle's config needs, found whatever the current folder is."""

from pathlib import Path

BUNDLES = Path(__file__).resolve().parent.parent / "bundles"
QUICKSTART_SLICES = Path("runs/quickstart/slices")


def bundle_root(name: str) -> str:
    """Folder of the installed bundle ``name``.

    Raises:
        FileNotFoundError: there is no such bundle; lists those there are.
    """
    root = BUNDLES / name
    if not (root / "configs").is_dir():
        known = sorted(p.parent.name for p in BUNDLES.glob("*/configs"))
        msg = f"there is no bundle '{name}' in {BUNDLES}; there are: {', '.join(known) or 'none'}"
        raise FileNotFoundError(msg)
    return str(root)


def run_dir(runs_dir: str | Path, name: str | int) -> str:
    """Folder of the run ``name`` below ``runs_dir``.

    Raises:
        ValueError: ``name`` leads elsewhere.
    """
    text = str(name)
    parts = Path(text).parts
    if not parts or Path(text).is_absolute() or {"..", "."} & set(parts) or "\\" in text:
        msg = f"run_name must be the name of a folder below runs_dir ('{runs_dir}'), got '{text}'"
        raise ValueError(msg)
    return str(Path(str(runs_dir)) / text)


def adapter_path(run: str | Path, which: str) -> Path:
    """The adapter file of a run's folder, ``which``: ``best`` or ``last``."""
    return Path(run) / f"adapter_{which}.safetensors"


def dataset_folder(folder: str | Path) -> Path:
    """The folder of slices to train on.

    Args:
        folder: a folder that ``samtune slice`` made; ``auto``: the quickstart's, looked for below
            the current folder and below the source checkout.

    Raises:
        FileNotFoundError: says where it was looked for and which command makes it.
    """
    if str(folder) == "auto":
        candidates = [Path.cwd() / QUICKSTART_SLICES, BUNDLES.parent / QUICKSTART_SLICES]
    else:
        candidates = [Path(folder)]
    for candidate in candidates:
        if (candidate / "manifest.json").is_file():
            return candidate
    looked = " and ".join(dict.fromkeys(str(c) for c in candidates))
    msg = (
        f"no slices (manifest.json) in {looked}; make them with 'bash scripts/quickstart.sh', or"
        " from your own volumes with 'samtune slice IMAGES --labels LABELS --modality mr --out DIR'"
        " and pass --dataset_dir DIR"
    )
    raise FileNotFoundError(msg)
