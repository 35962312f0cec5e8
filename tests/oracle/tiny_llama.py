"""A tiny random Llama as a Hugging Face folder, and its logits by transformers in fp32. Run once, by hand:

    pip install torch transformers
    python tiny_llama.py ../cases/checkpoints/tiny_llama tiny_llama.json
"""

import json
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = [1, 17, 42, 5, 63, 0, 29, 29, 11, 50, 3, 38]


@torch.no_grad()
def main(folder, target):
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    m = LlamaForCausalLM(config).float().eval()
    for name, w in m.named_parameters():
        if "norm" in name:
            w.copy_(1 + 0.1 * torch.randn_like(w))
    m.save_pretrained(folder)
    logits = m(torch.tensor([TOKENS])).logits[0]
    tokens = list(TOKENS)
    for _ in range(16):
        tokens.append(int(m(torch.tensor([tokens])).logits[0, -1].argmax()))
    out = {
        "tokens": TOKENS,
        "logits": [[float(f"{x:.7g}") for x in row] for row in logits.tolist()],
        "continuation": tokens[len(TOKENS) :],
    }
    with open(target, "w", encoding="utf-8") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
