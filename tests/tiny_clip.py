"""A tiny CLIP of the real classes with random weights, saved as a published one is: weights, vocabulary, processor."""

from __future__ import annotations

import json
from pathlib import Path

import torch


WORDS = ("photo", "picture", "sketch", "pencil", "face", "portrait")


def save_tiny_clip(folder: Path, seed: int = 0, crop: int = 32, short_side: int = 32) -> Path:
    """Write a CLIPModel with its CLIPProcessor into ``folder``."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    vocabulary, merges = byte_pairs()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 24},
        vision_config={**size, "image_size": crop, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for parameter in model.parameters():  # as initialised, all texts are nearly one
            parameter.data += 0.1 * torch.randn_like(parameter)
    images = CLIPImageProcessor(size={"shortest_edge": short_side}, crop_size={"height": crop, "width": crop})
    model.save_pretrained(folder)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def byte_pairs() -> tuple[dict[str, int], list[str]]:
    """A byte-level vocabulary with the merges that make each of ``WORDS`` one token."""
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            joined = parts[0] + parts[1]
            if f"{parts[0]} {parts[1]}" not in merges:
                merges.append(f"{parts[0]} {parts[1]}")
                vocabulary.append(joined)
            parts = [joined, *parts[2:]]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}, merges
