"""Which device a run uses."""

import torch

from samtune.training.distributed import COMMAND, OVERLAY, world_size


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """``auto`` (a GPU when there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` as a device.

    Raises:
        ValueError: the device doesn't exist on this machine; says which do. Or torchrun started
            several processes, which would all do the same.
    """
    if isinstance(name, torch.device):
        return name
    if world_size() > 1:
        msg = (
            f"{world_size()} processes would each do the whole work (WORLD_SIZE): to train in "
            f"several add {OVERLAY} to --config_file after train.yaml ('{COMMAND}'); all else "
            "runs in one"
        )
        raise ValueError(msg)
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    available = ["cpu", *(["mps"] if mps else [])]
    available += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"unknown device '{name}', expected auto or one of: {', '.join(available)}"
        raise ValueError(msg) from error
    index = device.index or 0
    wanted = f"cuda:{index}" if device.type == "cuda" else device.type
    if wanted not in available:
        msg = f"device '{name}' is not on this machine, which has: {', '.join(available)}"
        raise ValueError(msg)
    return device
