"""Fingerprints: short hashes of all that a model's numbers depend on, every byte of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch import nn

_DIGITS = 16  # of a fingerprint, in hexadecimal
_THREADS = 8  # at most; hashing waits for memory more than for the processor
_SEEN = 64  # entries of a tensor that are looked at to see whether it changed


def of(*parts: object) -> str:
    """One fingerprint of several values: JSON values, tensors, modules, mappings, or None."""
    digest = hashlib.blake2b(digest_size=_DIGITS // 2)
    for part in parts:
        if isinstance(part, nn.Module):
            found = of_network(part).encode()
        elif isinstance(part, torch.Tensor):
            found = _of_tensor("", part)
        else:
            found = json.dumps(part, default=_as_json).encode()
        # The length keeps two parts from being taken for another two.
        digest.update(len(found).to_bytes(8, "little") + found)
    return digest.hexdigest()


def of_network(network: Any) -> str:
    """The fingerprint of a network: its class, configuration, and all parameters and buffers.

    A callable that is no module has its name alone.

    Cost: every byte is read once, by several threads; tensors elsewhere are copied to the CPU one
    by one.
    """
    if not isinstance(network, nn.Module):
        return of(getattr(network, "__qualname__", type(network).__qualname__))
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        tensors = list(pool.map(lambda item: _of_tensor(*item).hex(), _tensors(network)))
    return of(type(network).__qualname__, config_of(network), tensors)


def told(value: object) -> object:
    """A value as JSON has it: an image or a tensor by a hash of its numbers.

    So of those in lists and mappings. What JSON does not know is told by its name.
    """
    if isinstance(value, Image.Image):
        size = " x ".join(map(str, value.size))
        return f"{value.mode} image {size}, {of(value.mode, value.size, value.tobytes().hex())}"
    if isinstance(value, torch.Tensor):
        size = " x ".join(map(str, value.shape))
        return f"tensor {size}, {of(value)}"
    if isinstance(value, Mapping):
        return {str(name): told(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [told(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"{type(value).__qualname__}, {of(value)}"


def config_of(owner: Any) -> dict[str, Any]:
    """The configuration of a part of diffusers, without what says where it was read from."""
    config = getattr(owner, "config", {})
    config = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    # Those are the names with an underscore.
    return {str(name): value for name, value in config.items() if not str(name).startswith("_")}


def of_prompts(pipeline: Any) -> str:
    """The fingerprint of what turns prompts into conditions: text encoders and tokenizers."""
    parts: list[object] = [config_of(pipeline).get("force_zeros_for_empty_prompt")]
    for name, part in sorted(getattr(pipeline, "components", {}).items()):
        if name.startswith("text_encoder"):
            parts += [name, part]
        elif name.startswith("tokenizer") and part is not None:
            parts += [name, _words(part)]
    return of(*parts)


def marks(network: Any) -> object | None:
    """What changes where the weights of a network do, cheaply; None where that cannot be told.

    Replaced storage, changes that torch counts, and any that reach the first entries of a tensor,
    such as a copy of other weights. A change of later entries through `.data` is not seen.
    """
    if not isinstance(network, nn.Module):
        return None
    found = []
    for name, tensor in _tensors(network):
        if tensor.is_inference() or tensor.is_meta:
            return None
        head = tensor.detach().flatten()[:_SEEN].cpu()
        found.append((name, tensor.data_ptr(), tensor._version, _bytes(head).tobytes()))
    return found, json.dumps(config_of(network), default=_as_json)


def _tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _of_tensor(name: str, tensor: torch.Tensor) -> bytes:
    kind = f"{name} {tensor.dtype} {list(tensor.shape)}"
    digest = hashlib.blake2b(kind.encode(), digest_size=16)
    if not tensor.is_meta:  # an offloaded text encoder has no bytes here
        digest.update(_bytes(tensor.detach().cpu()))
    return digest.digest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, copied only where its entries do not follow one another."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _words(tokenizer: Any) -> object:
    """How a tokenizer cuts texts into numbers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [type(tokenizer).__qualname__, sorted(tokenizer.get_vocab().items())]
    told = json.loads(backend.to_str())
    # What the last call asked for, and not what the tokenizer is.
    return {name: value for name, value in told.items() if name not in ("truncation", "padding")}


def _as_json(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else str(value)
