"""Networks of timm by name: ``timm:NAME`` with fresh weights, ``timm:NAME.WEIGHTS`` with published ones.

timm is the optional extra ``timm``, so it is imported inside functions. Its weights are read from safetensors files
only, which run no code.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.errors import SetupError
from bench.spec.near_names import near_matches, unknown

HUB_FILE = "model.safetensors"
"""Name of the file with a model's weights on the hub."""


def require() -> None:
    """Raise SetupError unless timm is installed."""
    if importlib.util.find_spec("timm") is None:
        raise SetupError('timm is not installed here: pip install -e ".[timm]"')


def timm_names() -> list[str]:
    """Every model of timm, without the names of its weights; raises SetupError."""
    require()
    import timm

    return [str(name) for name in timm.list_models()]


def timm_model(rest: str) -> Callable[..., nn.Module]:
    """``NAME`` with fresh weights, or ``NAME.WEIGHTS`` with published ones; raises UsageError, SetupError.

    timm itself makes it for the classes, the channels and, where a network is made for one size of images, the size
    that are asked for; published weights are adapted by timm, too.
    """
    name, _, which = rest.partition(".")
    names = timm_names()
    import timm

    if name not in names:
        hint = "" if near_matches(name, names) else f"list archs 'timm:*{name[:3]}*' lists names"
        raise unknown("timm model", name, names, hint)
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if which and which not in tags:
        raise unknown(f"weights of timm:{name}", which, tags, "" if tags else "timm publishes none")
    facts: Any = timm.get_pretrained_cfg(rest)

    def make(shape: tuple[int, int, int], num_classes: int, download: bool = False) -> nn.Module:
        options: dict[str, Any] = {"in_chans": shape[0], "num_classes": num_classes}
        if facts.fixed_input_size:
            options["img_size"] = shape[1:]
        create = partial(timm.create_model, name, **options)
        if not which:
            return create()
        file = _weights(rest, str(facts.hf_hub_id), download)
        try:
            return create(pretrained=True, pretrained_cfg=which, pretrained_cfg_overlay=_from(file))
        except Exception as error:
            why = f"{type(error).__name__}: {error}".split("\n")[0]
            raise SetupError(f"weights of timm:{rest} cannot be loaded from {file} ({why})") from error

    return make


def image_size(rest: str) -> int | None:
    """Side of the images that the model ``NAME[.WEIGHTS]`` was made for."""
    import timm

    facts: Any = timm.get_pretrained_cfg(rest)
    return int(facts.input_size[-1]) if facts else None


def _from(file: Path) -> dict[str, Any]:
    return {"file": str(file), "custom_load": False}


def _weights(rest: str, hub: str, download: bool) -> Path:
    """The file with published weights: in torch's folder, or in that of the hub; raises SetupError."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    own = Path(torch.hub.get_dir()) / "checkpoints" / f"{rest}.safetensors"
    if own.is_file():
        return own
    cached = try_to_load_from_cache(hub, HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    if not download:
        raise SetupError(
            f"weights of timm:{rest} are not here: use --download, or put {HUB_FILE} of {hub} "
            f"as {own.name} in {own.parent}"
        )
    try:
        return Path(hf_hub_download(hub, HUB_FILE))
    except Exception as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise SetupError(f"weights of timm:{rest} cannot be had from the hub ({why})") from error
