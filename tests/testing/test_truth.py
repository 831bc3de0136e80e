import math

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from pullback import LatentModel, maps
from pullback.testing import dense, in_float64, leading, map_jacobian, sample_map, sine


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=3,
    ).eval()
    return LatentModel(network, DDPMScheduler(), null_cond={"class_labels": torch.tensor(2)})


def orthonormal(batch, rows, n):
    return torch.linalg.qr(torch.randn(batch, n, rows, dtype=torch.float64)).Q.mT


@pytest.mark.parametrize("angle", [math.pi / 2, 0.3, 1e-3, 1e-8, 1e-13])
def test_sine_of_a_known_angle(angle):
    q = orthonormal(1, 4, 50)
    true = q[:, :3]
    found = true.clone()
    found[:, 1] = math.cos(angle) * q[:, 1] + math.sin(angle) * q[:, 3]
    assert sine(found, true).item() == pytest.approx(math.sin(angle), rel=1e-3, abs=2e-15)


def test_sine_ignores_basis_length_and_order_of_the_rows():
    true = orthonormal(2, 5, 40)
    mixed = torch.randn(2, 5, 5, dtype=torch.float64) @ true
    assert sine(mixed, true).max() < 1e-12
    assert sine(mixed.unflatten(2, (1, 8, 5)), true).max() < 1e-12


def test_sine_of_float32_rows_has_no_floor_at_a_thousandth():
    true = orthonormal(1, 10, 256)
    assert sine(true.float(), true).item() < 1e-6


def test_sine_asks_whether_the_true_rows_are_contained():
    true = orthonormal(1, 6, 40)
    assert sine(true, true[:, :2]).item() < 1e-14
    assert sine(true[:, :2], true).item() == pytest.approx(1.0)


def test_sine_is_per_sample():
    true = orthonormal(3, 2, 20)
    found = true.clone()
    found[1] = orthonormal(1, 2, 20)[0]
    angles = sine(found, true)
    assert angles[0] < 1e-14
    assert angles[1] > 0.1
    assert angles[2] < 1e-14


@pytest.mark.parametrize("tap", [None, "down_blocks.0"])  # m = 128 and m < n, and the reverse
def test_jacobian_of_a_map_equals_jacrev(model, tap):
    double = in_float64(model)
    x = torch.randn(2, 1, 8, 8)
    cond = {"class_labels": torch.tensor([0, 2])}
    encoder = maps.encoder(double, tap)
    got = map_jacobian(encoder, x, 300, cond)
    assert got.dtype == torch.float64
    bound = encoder.at(x.double(), 300, cond)
    for sample in range(2):
        f = sample_map(bound.f, *bound.args, sample=sample)
        point = x[sample : sample + 1].double()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            want = torch.func.jacrev(f)(point)
        want = want.reshape(-1, 64)
        assert got[sample].shape == want.shape
        torch.testing.assert_close(got[sample], want, rtol=1e-10, atol=1e-12)


def test_jacobian_of_a_decoder_has_a_column_per_entry_of_h(model):
    decoder = maps.decoder(in_float64(model))
    x = torch.randn(2, 1, 8, 8)
    operator = decoder.at(x.double(), 300).operator()
    got = map_jacobian(decoder, x, 300)
    assert got.shape == (2, 64, 8 * 4 * 4)
    torch.testing.assert_close(dense(operator), got, rtol=1e-10, atol=1e-12)


def test_jacobian_of_a_map_takes_one_condition_for_all(model):
    encoder = maps.encoder(in_float64(model))
    x = torch.randn(2, 1, 8, 8)
    null = map_jacobian(encoder, x, 300)
    named = map_jacobian(encoder, x, 300, {"class_labels": torch.tensor([2])})
    torch.testing.assert_close(null, named, rtol=0, atol=0)


def test_jacobian_of_a_map_refuses_a_float32_network(model):
    with pytest.raises(ValueError, match="float64"):
        map_jacobian(maps.encoder(model), torch.randn(1, 1, 8, 8), 300)


def test_conversion_leaves_the_model_alone(model):
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    assert in_float64(model).dtype == torch.float64
    assert model.dtype == torch.float32
    after = model.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_leading_triplets():
    jacobian = torch.randn(2, 9, 6, dtype=torch.float64)
    u, s, v = leading(jacobian, 3)
    assert u.shape == (2, 3, 9)
    assert v.shape == (2, 3, 6)
    assert (s[:, :-1] >= s[:, 1:]).all()
    torch.testing.assert_close(jacobian @ v.mT, (s.unsqueeze(2) * u).mT)
