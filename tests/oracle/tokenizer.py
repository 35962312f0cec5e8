"""Golden tokens and prompts of SmolLM2: numbers by llama.cpp, chat prompts by transformers' Jinja. Run once, by hand:

    pip install gguf transformers jinja2
    python tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf ./llama_tokenize tokenizer.json
"""

import json
import subprocess
import sys

from gguf import GGUFReader
from transformers.utils.chat_template_utils import render_jinja_template

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n  \t\t x",
    "Hello world",
    " Hello  world ",
    "HELLO, y'all! It's we'll they've I'd I'M",
    "3",
    "33 333  3333 3.14159 1,000,000 1e-5 ½ ² ١٢٣ Ⅷ",
    "a1b22c333",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # comment\n\n\n\tpass",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] << 2; }\r\n",
    "<html><body class='x'>&nbsp;</body></html>",
    "https://example.org/a/b?c=d&e=%20#f",
    "日本語のテキストと漢字、カタカナ。",
    "한국어 텍스트입니다",
    "Привет, мир! Ζωή μου",
    "שלום עולם مرحبا بالعالم",
    "नमस्ते दुनिया ไทย",
    "café naïve Zürich e\u0301 \u00a0nbsp\u2003em\u200bzero",
    "🙂 👩‍👩‍👧‍👦 🇨🇭 👍🏽 ✅",
    "x̷̢̛̟̠ ﷽ ﬁ ǅ",
    "!!!!! ... --- ___ ~~~ \\\\ `` “quoted” ‘x’ — –",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><|im_start|",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "\u0000\u0001\u007f\u0080".replace("\u0000", ""),
    "        deep\n            deeper\n",
    "word" * 20,
    "a" * 100,
]
CHATS = [
    [("user", "Hi")],
    [("system", "Be brief."), ("user", "  two\nlines  ")],
    [("user", "a"), ("assistant", "b"), ("user", "c")],
]


def numbers(tool, model, texts):
    out = subprocess.run([tool, model], input="\0".join(texts).encode() + b"\0", capture_output=True, check=True).stdout
    lines = out.decode().split("\n")[:-1]
    assert len(lines) == len(texts)
    return [[int(n) for n in line.split()] for line in lines]


def prompt(template, chat):
    messages = [{"role": role, "content": content} for role, content in chat]
    rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)
    return rendered[0]


def main(model, tool, target):
    template = GGUFReader(model).fields["tokenizer.chat_template"].contents()
    ids = numbers(tool, model, TEXTS)
    out = {
        "texts": [{"text": t, "tokens": n} for t, n in zip(TEXTS, ids)],
        "chats": [{"messages": c, "prompt": prompt(template, c)} for c in CHATS],
    }
    with open(target, "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=False, indent=0)
        f.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
