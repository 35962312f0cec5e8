"""Tiny random models of every architecture of models/, and what transformers in fp32 makes of them. Run once, by hand:

    pip install torch transformers
    python tiny.py tiny

For each architecture tiny/NAME.json holds the config, the shape of every tensor, tokens and the wanted outputs. Values of
tensors are not kept: they follow from the tensors' names, here as in `frontend/src/reference/random.rs`.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers as tr
from safetensors import safe_open
from safetensors.numpy import save_file

SEED = 5
TOKENS = [1, 17, 42, 5, 63, 0, 29, 29, 11, 50, 3, 38]
SOURCE = [9, 33, 2, 60, 21, 4, 1]
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# Mostly multiples of a quantised block, so that every format of weights can be tried on the same sizes.
COMMON = dict(vocab_size=64, hidden_size=64, num_hidden_layers=2, intermediate_size=96, tie_word_embeddings=False)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16)


def models():
    yield "llama", tr.LlamaForCausalLM(
        tr.LlamaConfig(
            **COMMON,
            **HEADS,
            attention_bias=True,
            max_position_embeddings=128,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        )
    )
    yield "mixtral", tr.MixtralForCausalLM(
        tr.MixtralConfig(**COMMON, **HEADS, num_local_experts=4, num_experts_per_tok=2, rope_parameters=ROPE)
    )
    yield "gemma3", tr.Gemma3ForCausalLM(
        tr.Gemma3TextConfig(
            **{**COMMON, "num_hidden_layers": 3},
            **HEADS,
            sliding_window=4,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            query_pre_attn_scalar=24,
            final_logit_softcapping=30.0,
            rope_parameters={
                "sliding_attention": ROPE,
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            },
        )
    )
    yield "deepseek_v3", tr.DeepseekV3ForCausalLM(
        tr.DeepseekV3Config(
            **{**COMMON, "num_hidden_layers": 3},
            first_k_dense_replace=1,
            num_attention_heads=4,
            num_key_value_heads=4,
            q_lora_rank=32,
            kv_lora_rank=32,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=16,
            moe_intermediate_size=32,
            n_routed_experts=8,
            n_shared_experts=1,
            n_group=4,
            topk_group=2,
            num_experts_per_tok=3,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 32,
            },
            max_position_embeddings=128,
        )
    )
    yield "t5", tr.T5ForConditionalGeneration(
        tr.T5Config(
            vocab_size=64,
            d_model=64,
            d_kv=16,
            d_ff=96,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )
    yield "bert", tr.BertModel(
        tr.BertConfig(
            vocab_size=64,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            max_position_embeddings=32,
        )
    )


def values(name, shape):
    """`make` of random.rs for f32: SplitMix64 begun at the FNV-1a hash of the name."""
    state = 0xCBF29CE484222325 ^ SEED
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    n = math.prod(shape)
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1
    x = 1 + 0.1 * x if len(shape) < 2 else x * math.sqrt(3 / shape[-1])
    return x.astype(np.float32).reshape(shape)


def rounded(t):
    return [[float(f"{x:.7g}") for x in row] for row in t.reshape(-1, t.shape[-1]).tolist()]


@torch.no_grad()
def outputs(name, m):
    tokens = torch.tensor([TOKENS])
    if name == "t5":
        return {"logits": m(input_ids=torch.tensor([SOURCE]), decoder_input_ids=tokens).logits}
    if name == "bert":
        out = m(tokens)
        average = out.last_hidden_state.mean(1)
        unit = torch.nn.functional.normalize(average)
        return {"hidden": out.last_hidden_state, "average": average, "unit_average": unit, "pooled": out.pooler_output}
    return {"logits": m(tokens).logits}


def main(target):
    for name, m in models():
        with tempfile.TemporaryDirectory() as folder:
            m.save_pretrained(folder)
            file = Path(folder) / "model.safetensors"
            with safe_open(file, "np") as f:
                shapes = {k: list(f.get_slice(k).get_shape()) for k in f.keys()}
            save_file({k: values(k, s) for k, s in shapes.items()}, file, metadata={"format": "pt"})
            m = type(m).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            config = json.loads((Path(folder) / "config.json").read_text())
        golden = {"hf": config["model_type"], "config": config, "tensors": shapes, "tokens": TOKENS}
        if name == "t5":
            golden["source"] = SOURCE
        golden["outputs"] = {k: rounded(v) for k, v in outputs(name, m).items()}
        (Path(target) / f"{name}.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
