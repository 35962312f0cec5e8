"""Golden values of SmolLM2-135M-Instruct, from software that shares nothing with llmc.

Tensors are de-quantised by the `gguf` package and evaluated by transformers' Llama in fp32. Run once, by hand:

    pip install torch transformers gguf tokenizers
    python smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf smollm2.json
"""

import json
import sys

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

CHAT = "<|im_start|>user\nHello! Who are you?<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    "chat": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" + CHAT,
    "code": "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "unicode": "Zürich, Čeština, ελληνικά, 日本語と한국어: ünïcödé 🙂🚀 naïve café —",
    "numbers": "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89,",
    "paragraph": "The lighthouse keeper climbed the stairs every evening, counting each step aloud, until the lamp was lit "
    "and the first ships of the night could see the rocks that had sunk so many others before",
}
PERPLEXITY_TEXT = (
    "A river begins as a thin line of water between stones, too small to have a name. It gathers others like "
    "itself on the way down, and by the time it leaves the hills it carries sand, leaves and the colour of the soil. "
    "Villages grew where it could be crossed, and mills where it fell. In spring the meltwater lifts it over its banks "
    "and covers the meadows with mud; farmers complain about the floods and depend on them. Below the last bridge it "
    "slows, widens and divides, as if it could not decide which way to take, and the birds that spend the winter "
    "there know every one of its channels. Where it meets the sea the water is neither fresh nor salt. Twice a day "
    "the tide pushes it back for some miles, and twice a day it returns. A map shows it as a fixed blue line, but "
    "the old maps all show different lines, and each of them was right in its time. What has stayed is only the "
    "direction: downhill, towards something larger."
)
LAST_POSITIONS = 3
CONTINUATION = 32


def field(reader, key):
    return reader.fields[key].contents()


def tokenizer(reader):
    """Byte-level BPE; digits alone, as the model's published tokenizer splits them."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in field(reader, "tokenizer.ggml.merges")]
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tok.decoder = decoders.ByteLevel()
    kinds = field(reader, "tokenizer.ggml.token_type")
    tok.add_special_tokens([t for t, kind in zip(tokens, kinds) if kind == 3])
    return tok


def unpermuted(w, heads):
    """GGUF stores rotary pairs side by side; transformers wants the two halves apart."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def model(reader):
    def get(key):
        return field(reader, "llama." + key)

    heads, kv = get("attention.head_count"), get("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=get("vocab_size"),
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv,
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
        max_position_embeddings=get("context_length"),
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    names = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    state = {}
    for t in reader.tensors:
        w = np.array(dequantize(t.data, t.tensor_type), dtype=np.float32)
        part = t.name.removesuffix(".weight").split(".")
        if part[0] != "blk":
            name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[part[0]]
        else:
            if part[2] in ("attn_q", "attn_k"):
                w = unpermuted(w, heads if part[2] == "attn_q" else kv)
            name = f"model.layers.{part[1]}.{names[part[2]]}"
        state[name + ".weight"] = torch.from_numpy(w.copy())
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    m = LlamaForCausalLM(config).float().eval()
    m.load_state_dict(state, strict=True)
    return m


def digits(x, n=7):
    return float(f"{float(x):.{n}g}")


def row(logits, positions):
    """A position's logits: at the fixed vocabulary positions, the ten greatest, and the norm of all."""
    top = torch.topk(logits, 10)
    return {
        "norm": digits(logits.double().norm()),
        "top": [[int(i), digits(x)] for i, x in zip(top.indices, top.values)],
        "values": [digits(logits[i]) for i in positions],
    }


def continuation(m, tokens):
    """Greedy tokens, and by how much each beat the next best."""
    tokens, out, margins = list(tokens), [], []
    for _ in range(CONTINUATION):
        best = torch.topk(m(torch.tensor([tokens])).logits[0, -1], 2)
        out.append(int(best.indices[0]))
        margins.append(digits(best.values[0] - best.values[1], 4))
        tokens.append(out[-1])
    return out, margins


def golden(m, tok, name, text, positions):
    tokens = tok.encode(text).ids
    logits = m(torch.tensor([tokens])).logits[0]
    out, margins = continuation(m, tokens)
    first = max(0, len(tokens) - LAST_POSITIONS)
    return {
        "name": name,
        "text": text,
        "tokens": tokens,
        "argmax": logits.argmax(-1).tolist(),
        "last": [{"position": p, **row(logits[p], positions)} for p in range(first, len(tokens))],
        "continuation": out,
        "margins": margins,
        "continuation_text": tok.decode(out, skip_special_tokens=True),
    }


def perplexity(m, tok):
    tokens = tok.encode(PERPLEXITY_TEXT).ids
    logits = m(torch.tensor([tokens])).logits[0, :-1].double()
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]))
    return {"text": PERPLEXITY_TEXT, "tokens": tokens, "nll": digits(nll), "perplexity": digits(nll.exp())}


@torch.no_grad()
def main(source, target):
    reader = GGUFReader(source)
    tok, m = tokenizer(reader), model(reader)
    positions = list(range(0, m.config.vocab_size, m.config.vocab_size // 256))
    out = {
        "positions": positions,
        "prompts": [golden(m, tok, name, text, positions) for name, text in PROMPTS.items()],
        "perplexity": perplexity(m, tok),
    }
    with open(target, "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    for p in out["prompts"]:
        print(p["name"], len(p["tokens"]), repr(p["continuation_text"]), min(p["margins"]))
    print(out["perplexity"]["perplexity"], len(out["perplexity"]["tokens"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
