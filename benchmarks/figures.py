"""Where a benchmark's figures go, with what they were measured with."""

import argparse
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samtune.atomic import write_atomically


def write_figures(
    args: argparse.Namespace, results: Mapping[str, Any], versions: Mapping[str, str]
) -> None:
    """Write ``args.json``, where it names a file: options, versions, machine, commit, results."""
    if args.json is None:
        return
    about = {
        **{key: value for key, value in vars(args).items() if key != "json"},
        "versions": dict(versions),
        "machine": platform.processor() or platform.machine(),
        "commit": _commit(),
        "results": dict(results),
    }
    write_atomically(args.json, (json.dumps(about, indent=2) + "\n").encode())


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
