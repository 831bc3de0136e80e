"""Networks of which some tensors stay in float32 whatever the dtype, as those of Wan."""

import pytest
import torch
from diffusers import WanTransformer3DModel

import pullback
from pullback import local_basis
from pullback.models import folders as reading
from tests.models import hub_more
from tests.models.test_weights import held

CALL = hub_more.CALL["wan"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return hub_more.wan(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    root = tmp_path_factory.mktemp("wan")
    pipeline.save_pretrained(root)
    return root


def test_a_folder_is_read_in_one_dtype_without_further_packages(folder, pipeline, monkeypatch):
    """And every network once, also where the pipeline's class calls it optional."""
    monkeypatch.setattr(reading, "is_accelerate_available", lambda: False)
    read, needed = [], []
    own = WanTransformer3DModel.from_pretrained.__func__

    def noting(kind, *args, **kwargs):
        read.append(kwargs["torch_dtype"])
        return own(kind, *args, **kwargs)

    monkeypatch.setattr(WanTransformer3DModel, "from_pretrained", classmethod(noting))
    monkeypatch.setattr(reading, "check_room", lambda parts, *_: needed.append(parts))
    model = pullback.load(folder, call=CALL)
    assert read == [torch.float32]
    assert type(model.network) is WanTransformer3DModel
    assert model.fingerprint == pullback.load(pipeline, call=CALL).fingerprint
    assert needed[0]["transformer"] == held(model.network)

    double = pullback.load(folder, call=CALL, dtype=torch.float64)
    assert read == [torch.float32, torch.float64]
    assert {parameter.dtype for parameter in double.network.parameters()} == {torch.float64}


def test_a_half_without_accelerate_is_read_in_float32_first(folder, monkeypatch):
    """And the memory that is needed is told for that."""
    monkeypatch.setattr(reading, "is_accelerate_available", lambda: False)
    needed = []
    monkeypatch.setattr(reading, "check_room", lambda parts, *_: needed.append(parts))
    model = pullback.load(folder, call=CALL, dtype=torch.bfloat16)
    kept = set(WanTransformer3DModel._keep_in_fp32_modules)
    for name, parameter in model.network.named_parameters():
        stays = not kept.isdisjoint(name.split("."))
        assert parameter.dtype == (torch.float32 if stays else torch.bfloat16), name
    whole = pullback.load(folder, call=CALL)
    assert needed[0]["transformer"] == needed[1]["transformer"] == held(whole.network)


def test_a_half_with_accelerate(folder, monkeypatch):
    pytest.importorskip("accelerate", reason="diffusers keeps tensors in float32 by accelerate")
    needed = []
    monkeypatch.setattr(reading, "check_room", lambda parts, *_: needed.append(parts))
    model = pullback.load(folder, call=CALL, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    kinds = {parameter.dtype for parameter in model.network.parameters()}
    assert kinds == {torch.bfloat16, torch.float32}
    assert needed[0]["transformer"] == held(model.network)


def test_a_pipeline_in_two_dtypes(pipeline, tmp_path):
    """The dtype of the latents is that of the rest, though the first parameter is in float32."""
    mixed = hub_more.wan(tmp_path)
    mixed.text_encoder.to(torch.bfloat16)
    mixed.transformer.to(torch.bfloat16)
    for name, parameter in mixed.transformer.named_parameters():
        if not set(name.split(".")).isdisjoint(WanTransformer3DModel._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
    assert next(mixed.transformer.parameters()).dtype == torch.float32
    model = pullback.load(mixed, call=CALL)
    assert model.dtype == torch.bfloat16
    whole = pullback.load(pipeline, call=CALL)
    x = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    expected = local_basis(whole, x, 80, 2, quality="draft")
    found = local_basis(model, x.bfloat16(), 80, 2, quality="draft")
    torch.testing.assert_close(found.s.float(), expected.s, rtol=0.02, atol=0)
