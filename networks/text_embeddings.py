"""Class names as vectors of a CLIP text encoder, kept in a small file.

They are made once, where the encoder's weights are at hand; training reads the file, and a trained
head carries its rows, so neither is needed afterwards.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from samtune.atomic import whole_file

FORMAT_VERSION = 1
TEMPLATE = "a medical image of {}"
_HEADER = "samtune"
_KIND = "text_embeddings"
_TENSOR = "embeddings"


@dataclass(frozen=True)
class TextEmbeddings:
    """Content of a file.

    Attributes:
        vectors: name to vector ``d``, float32.
        meta: ``model``, ``template`` and whatever else the writer added.
    """

    vectors: dict[str, Tensor]
    meta: dict[str, Any]

    def rows(self, names: Sequence[str]) -> Tensor:
        """``len(names) d``, in the order of ``names``.

        Raises:
            ValueError: a name is not there.
        """
        missing = [name for name in names if name not in self.vectors]
        if missing:
            msg = f"no text embedding of '{missing[0]}', there are: {', '.join(self.vectors)}"
            raise ValueError(msg)
        return torch.stack([self.vectors[name] for name in names])


def encode_names(
    names: Sequence[str], clip_dir: str | Path, template: str = TEMPLATE
) -> dict[str, Tensor]:
    """Embed class names with a CLIP text encoder that lies on this machine.

    Args:
        names: what the classes are called, no name twice.
        clip_dir: folder of a CLIP model as ``transformers`` saves it, with its tokenizer.
        template: sentence a name is put into, at ``{}``.

    Returns:
        Name to projected text embedding ``d``, float32, of length 1.

    Raises:
        FileNotFoundError: no such folder, or model or tokenizer is not in it.
        ValueError: no or repeated names, a template without ``{}``, or weights that lack a part.
        ImportError: ``transformers`` is not installed.

    Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.4 (prompt templates).
    """
    if not names or len(set(names)) != len(names) or not all(name.strip() for name in names):
        msg = f"names must be different and not empty, got {list(names)}"
        raise ValueError(msg)
    if template.count("{}") != 1:
        msg = f"template must hold {{}} once, where the name goes, got '{template}'"
        raise ValueError(msg)
    folder = Path(clip_dir)
    if not (folder / "config.json").is_file():
        msg = (
            f"'{folder}' holds no CLIP model: expected config.json, model.safetensors and the "
            "tokenizer's files, as transformers saves them; nothing is downloaded"
        )
        raise FileNotFoundError(msg)
    try:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer
    except ImportError as error:
        msg = "class names by CLIP need transformers: pip install 'samtune[text]'"
        raise ImportError(msg, name=error.name) from error

    try:
        tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        loaded: Any = CLIPTextModelWithProjection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        msg = f"'{folder}' holds no complete CLIP model with its tokenizer: {error}"
        raise FileNotFoundError(msg) from error
    model, report = loaded
    if report["missing_keys"]:  # would be random
        msg = f"'{folder}' is no CLIP text encoder: it lacks {sorted(report['missing_keys'])[0]}"
        raise ValueError(msg)
    tokens = tokenizer([template.format(name) for name in names], padding=True, return_tensors="pt")
    longest = model.config.max_position_embeddings
    if tokens["input_ids"].shape[1] > longest:
        msg = f"a name makes {tokens['input_ids'].shape[1]} tokens, the encoder takes {longest}"
        raise ValueError(msg)
    with torch.inference_mode():
        out = model.eval()(**tokens).text_embeds.to(torch.float32)
    out = out / out.norm(dim=-1, keepdim=True)
    return dict(zip(names, out.clone(), strict=True))


def save_text_embeddings(
    path: str | Path, vectors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write names' vectors; the file appears whole or not at all.

    Args:
        vectors: name to vector, all of one length.
        meta: JSON-able facts: ``model`` and ``template`` at least.

    Raises:
        ValueError: no vector, vectors of different lengths, or ``meta`` lacks one of the two.
    """
    shapes = {tuple(vector.shape) for vector in vectors.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        msg = f"'{path}': vectors must be of one length each, got shapes {sorted(shapes)}"
        raise ValueError(msg)
    lacking = [key for key in ("model", "template") if key not in meta]
    if lacking:
        msg = f"'{path}': meta lacks {lacking[0]}"
        raise ValueError(msg)
    header = {
        "kind": _KIND,
        "format_version": FORMAT_VERSION,
        "names": list(vectors),
        "meta": dict(meta),
    }
    stacked = torch.stack([v.detach().cpu().to(torch.float32) for v in vectors.values()])
    with whole_file(Path(path)) as partial:
        save_file({_TENSOR: stacked}, partial, {_HEADER: json.dumps(header, sort_keys=True)})


def load_text_embeddings(path: str | Path) -> TextEmbeddings:
    """Read what :func:`save_text_embeddings` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or of another format version.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"text embeddings '{path}' do not exist; 'samtune text' makes them"
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            stacked = file.get_tensor(_TENSOR) if _TENSOR in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        msg = f"text embeddings '{path}' can't be read: {error}"
        raise ValueError(msg) from error
    if not isinstance(header, dict) or header.get("kind") != _KIND or stacked is None:
        msg = f"'{path}' holds no text embeddings written by samtune"
        raise ValueError(msg)
    if header.get("format_version") != FORMAT_VERSION:
        found = header.get("format_version")
        msg = f"'{path}' has format_version {found}, this version reads {FORMAT_VERSION}"
        raise ValueError(msg)
    names = header.get("names", [])
    if len(names) != len(stacked):
        msg = f"'{path}' is damaged: {len(names)} names, {len(stacked)} vectors"
        raise ValueError(msg)
    return TextEmbeddings(dict(zip(names, stacked, strict=True)), header.get("meta", {}))
