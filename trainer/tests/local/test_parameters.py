import pytest
import torch

from leyden.errors import BadConfig
from leyden_trainer.local.model import load_model
from leyden_trainer.local.parameters import merged_state, train_parameters, without_adapters


def test_all_weights_are_trained_but_the_tied_embedding(model):
    trained = train_parameters(model)
    assert set(dict(model.named_parameters())) - set(trained) == {"model.embed_tokens.weight"}


def test_the_top_layers_alone_are_trained(model):
    trained = train_parameters(model, layers=1)
    assert trained
    assert all(name.startswith("model.layers.1.") for name in trained)


def test_low_rank_adapters_are_trained_in_every_linear_layer(model):
    trained = train_parameters(model, lora_rank=4)
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 2 * 7  # A and B, two layers, seven matrices in each


def test_adapters_may_be_limited_to_the_top_layers(model):
    assert all(".layers.1." in name for name in train_parameters(model, lora_rank=4, layers=1))


def test_fresh_adapters_change_nothing_and_are_the_same_for_the_same_seed(tiny_folder):
    ids = torch.tensor([[5, 6, 7]])
    starts = []
    for _ in range(2):
        model, _ = load_model(tiny_folder, device=torch.device("cpu"))
        with torch.no_grad():
            before = model(ids).logits
            trained = train_parameters(model, lora_rank=4, seed=3)
            assert torch.equal(model(ids).logits, before)
        starts.append(torch.cat([parameter.detach().flatten() for parameter in trained.values()]))
    assert torch.equal(*starts)


def test_merged_weights_and_switched_off_adapters(tiny_folder, model):
    ids = torch.tensor([[5, 6, 7]])
    plain, _ = load_model(tiny_folder, device=torch.device("cpu"))
    with torch.no_grad():
        for parameter in train_parameters(model, lora_rank=4).values():
            parameter.add_(0.05)
        adapted = model(ids).logits
        with without_adapters(model):
            assert torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-6)
        assert not torch.allclose(adapted, plain(ids).logits, atol=1e-2)
        plain.load_state_dict(merged_state(model))
        assert torch.allclose(plain(ids).logits, adapted, atol=1e-4)


def test_more_layers_than_there_are_is_refused(model):
    with pytest.raises(BadConfig, match=r"model\.layers = 3.*2 layers"):
        train_parameters(model, layers=3)
