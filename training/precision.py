"""Mixed precision: which type the network computes in, and the inferer that sees to it."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from monai.inferers import Inferer
from torch import Tensor

from samtune.training.settings import flag

Precision = Literal["float32", "bf16", "fp16"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

logger = logging.getLogger(__name__)


def amp_setting(value: Any) -> bool | str:
    """The key ``amp`` as it is kept with a run: true, false, ``bf16``, ``fp16`` or ``auto``.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str) and value.lower() in ("bf16", "fp16", "auto"):
        return value.lower()
    try:
        return flag("amp", value)
    except ValueError:
        msg = f"amp must be false, bf16, fp16 or auto (true is fp16 on CUDA), got {value!r}"
        raise ValueError(msg) from None


def pick_precision(amp: Any, device: torch.device) -> Precision:
    """What the network computes in.

    Args:
        amp: see :func:`amp_setting`. ``auto``: bf16 where the device has it, else fp16 on CUDA,
            else float32. True: fp16 on CUDA, float32 elsewhere.
        device: where it computes.

    Raises:
        ValueError: fp16 where there is no loss scaling for it: not on CUDA.
    """
    amp = amp_setting(amp)
    if amp is False:
        return "float32"
    is_cuda = device.type == "cuda"
    if amp == "auto":
        if has_native_bf16(device):
            return "bf16"
        return "fp16" if is_cuda else "float32"
    if amp is True:
        if not is_cuda:
            logger.warning("amp: true is fp16 on CUDA, on %s it does nothing: try bf16", device)
        return "fp16" if is_cuda else "float32"
    if amp == "fp16":
        if not is_cuda:
            msg = f"amp: fp16 needs CUDA, the device is '{device}'; set amp to bf16 or false"
            raise ValueError(msg)
        return "fp16"
    if not has_native_bf16(device):
        logger.warning(
            "amp: bf16, but %s has no native bf16: it is emulated, exact enough but slower than "
            "amp: false",
            "this processor (avx512_bf16, amx_bf16)" if device.type == "cpu" else f"'{device}'",
        )
    return "bf16"


def has_native_bf16(device: torch.device) -> bool:
    """Does the device compute in bf16 itself?"""
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device)[0] >= 8)
    if device.type == "cpu":
        found: Mapping[str, Any] = torch.cpu.get_capabilities()
        return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


class AutocastInferer(Inferer):
    """Lets an inferer run the network in mixed precision; what comes out is float32 again.

    So the loss is computed in float32.

    Args:
        inferer: what is run.
        precision: of the network.
        device: where it is.
    """

    def __init__(self, inferer: Any, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.inferer = inferer
        self.precision = precision
        self.device = device

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The inferer's output, each floating tensor in it as float32."""
        if self.precision == "float32":
            return self.inferer(inputs, network, *args, **kwargs)
        with torch.autocast(self.device.type, dtype=_TYPES[self.precision]):
            out = self.inferer(inputs, network, *args, **kwargs)
        return _float(out)


def _float(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.float() if out.is_floating_point() else out
    if isinstance(out, Mapping):
        return {key: _float(one) for key, one in out.items()}
    if isinstance(out, tuple | list):
        return type(out)(_float(one) for one in out)
    return out
