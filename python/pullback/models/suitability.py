"""Networks whose derivatives cannot be had as they are, and what to do about it."""

from __future__ import annotations

from typing import Any

from torch import nn

#: Layers of torch that answer otherwise in training mode.
_TRAINED = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.RReLU,
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
)


def unwrapped(network: Any) -> Any:
    """The network inside `torch.compile`, whose graphs drop forward-mode tangents."""
    return getattr(network, "_orig_mod", network)


def check_suitable(network: nn.Module, name: str) -> None:
    """Raise ValueError for a network whose derivatives cannot be had as it is.

    That is one in training mode, with compiled parts, offloaded, quantised or checkpointed, or with
    experts that are run without derivatives.
    """
    modules = list(network.named_modules())
    training = [path or "the network" for path, module in modules if _random(module)]
    if training:
        more = f" and {len(training) - 1} more modules" if len(training) > 1 else ""
        raise ValueError(
            f"{name} is in training mode ({training[0]}{more}), where dropout makes the features "
            "random. Expected evaluation mode: call network.eval() first."
        )
    for path, module in modules:
        where = path or "the network"
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None):
            raise ValueError(
                f"{name} has parts that are compiled ({where}), whose graphs drop forward-mode "
                "tangents; only a network that was compiled whole, by torch.compile(network), can "
                "be unwrapped. Load it again without compiling it, or undo module.compile() by "
                "module._compiled_call_impl = None."
            )
        if getattr(module, "gradient_checkpointing", False):
            raise ValueError(
                f"{name} recomputes activations ({where} has gradient checkpointing), which "
                "torch.func cannot differentiate. Call network.disable_gradient_checkpointing() "
                "first; products plan their own memory."
            )
        if hasattr(module, "moe_infer") and not module.training:
            raise ValueError(
                f"{name} runs its experts ({where}) without derivatives in evaluation mode. "
                "Expected the path that has them and gives the same: for module in "
                "network.modules(): if hasattr(module, 'moe_infer'): module.training = True."
            )
        if _moves(module):
            raise ValueError(
                f"{name} is offloaded ({where} is moved between devices by a hook), which products "
                "with its Jacobian cannot follow. Load it without offloading, or call "
                "pipeline.remove_all_hooks() (disable_group_offloading for group offloading) and "
                "move the network to one device."
            )
    devices = {parameter.device.type for parameter in network.parameters()}
    if "meta" in devices or len({parameter.device for parameter in network.parameters()}) > 1:
        raise ValueError(
            f"{name} lies on several devices or on none ({', '.join(sorted(devices))}). Expected "
            "all parameters on one device: load it without device_map."
        )
    quantised = [p for p, parameter in network.named_parameters() if not _plain(parameter)]
    if getattr(network, "is_quantized", False) or quantised:
        what = f" ({quantised[0]} is not a plain floating tensor)" if quantised else ""
        raise ValueError(
            f"{name} is quantised{what}; its layers have no derivative in forward mode. Load it "
            "without a quantization_config, in bfloat16 for example."
        )


def _random(module: nn.Module) -> bool:
    """Whether a module is in training mode and that may matter to its outputs.

    Adapters and fused projections come in training mode, of layers that are the same in it.
    """
    if not module.training:
        return False
    home = type(module).__module__
    plain = home.startswith(("torch.nn.modules", "diffusers."))
    return not plain or isinstance(module, _TRAINED)


def _moves(module: nn.Module) -> bool:
    """Whether a hook of accelerate or of diffusers' group offloading sits on a module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and type(hook).__name__ not in ("ModelHook", "SequentialHook"):
        return True
    registry = getattr(module, "_diffusers_hook", None)
    names = getattr(registry, "hooks", {})
    return any("offloading" in str(name) or "casting" in str(name) for name in names)


def _plain(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point() and type(parameter) is nn.Parameter
