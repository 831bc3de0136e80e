"""The network is left as it was found: after maps, exceptions, and by several threads."""

import threading

import pytest
import torch
from torch import nn

import pullback
from pullback import maps
from tests.maps.denoiser import (
    C,
    H,
    T,
    W,
    times,
)


def state(network):
    """All that maps might leave behind in a network."""
    return [
        (
            path,
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            "forward" in vars(module),
            module.training,
            [(p.requires_grad, p.grad is None) for p in module.parameters(recurse=False)],
        )
        for path, module in network.named_modules()
    ]


@pytest.mark.parametrize("grad", [True, False])
def test_the_network_is_left_as_it_was_found(network, model, x, grad):
    network.requires_grad_(grad)
    network.out.requires_grad_(not grad)
    mine = network.last.register_forward_hook(lambda *_: None)
    before, weights = state(network), [p.clone() for p in network.parameters()]
    latents = x.clone()
    for map in (
        maps.encoder(model, "middle"),
        maps.decoder(model, "middle"),
        maps.output(model, "score"),
    ):
        pullback.basis(map, x, T, 2).extend(3)
        map.at(x, T).value()
    model.taps()
    assert state(network) == before
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    assert torch.equal(x, latents)
    mine.remove()


@pytest.mark.parametrize("failing", ["first", "last"])
def test_the_network_is_left_as_it_was_after_an_exception(network, model, x, failing):
    bound = maps.decoder(model, "middle").at(x, T)
    block = getattr(network, failing)
    before = state(network)

    class Broken(nn.Module):
        def forward(self, h):
            raise RuntimeError("broken on purpose")

    block.mix, mix = Broken(), block.mix
    calls = [lambda: maps.encoder(model, "last").at(x, T).value(), model.taps]
    if failing == "last":
        calls += [bound.value, bound.operator]
    else:
        calls += [lambda: maps.decoder(model, "middle").at(x, T)]
    for call in calls:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            call()
    block.mix = mix
    assert state(network) == before


def test_two_threads_at_once_on_one_network(network, model, x, rng):
    others = torch.randn(3, C, H, W, generator=rng, dtype=torch.float64)
    makers = [
        lambda point: maps.decoder(model, "middle").at(point, T),
        lambda point: maps.decoder(model, "first").at(point, T),
        lambda point: maps.encoder(model, "middle").at(point, T),
        lambda point: maps.output(model).at(point, T),
    ]
    jobs = [(make, point) for make in makers for point in (x, others)]
    truth = [make(point).value() for make, point in jobs]
    before, wrong = state(network), []
    start = threading.Barrier(len(jobs))

    def work(place):
        make, point = jobs[place]
        start.wait()
        try:
            for _ in range(15):
                bound = make(point)
                for _ in range(3):
                    if not torch.allclose(bound.value(), truth[place], rtol=1e-10, atol=1e-12):
                        wrong.append(place)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert state(network) == before
    assert torch.equal(network(x, times(x)), maps.output(model).at(x, T).value())


def test_a_decoder_in_one_thread_is_not_seen_by_a_pass_in_another(network, model, x):
    # Surely at the same time: the last block of the decoder's pass waits for the other's result.
    with torch.no_grad():
        truth = network(2 * x, times(x))
    bound = maps.decoder(model, "middle").at(x, T)
    seen, owner = [], threading.get_ident()

    def wait(*_):
        if threading.get_ident() == owner:
            with torch.no_grad():
                other = threading.Thread(target=lambda: seen.append(network(2 * x, times(x))))
                other.start()
                other.join()

    hook = network.last.register_forward_hook(wait)
    bound.value()
    hook.remove()
    torch.testing.assert_close(seen[0].detach(), truth, rtol=1e-12, atol=1e-12)
