"""WhisperLiveKit's own policy decodes with PyTorch, which `bench.mirror` does not see: here that works twice, too.

Whatever the small model's decoder is asked, one of the shape's size with random weights is asked as well: the same
number of tokens after the same number of earlier ones, 1,500 positions of sound. What it answers is thrown away.

Boundary: that server's process and environment.
"""

import importlib
from pathlib import Path
from typing import Any

import torch

from bench.peers.checkpoint import dimensions, read

CACHES_MAX = 512
"""Of sessions, newest kept; a dropped one would only make its next step longer."""


def shadow_decoder(shape: Path) -> None:
    """From now on. `shape`: a folder of `bench.shapes`."""
    decoder: Any = importlib.import_module("whisperlivekit.whisper.model").TextDecoder
    sizes = dimensions(read(shape / "model.bin"))
    state = sizes["n_text_state"]
    large = decoder(sizes["n_vocab"], sizes["n_text_ctx"], state, sizes["n_text_head"], sizes["n_text_layer"])
    torch.nn.init.normal_(large.positional_embedding, std=0.02)
    large.eval()
    real = decoder.forward
    sound = torch.zeros(1, sizes["n_audio_ctx"], state)
    caches: dict[int, dict[str, Any]] = {}

    def forward(self: Any, x: Any, xa: Any, kv_cache: Any = None, return_cross_attn: bool = False) -> Any:
        if self is not large:
            shadow = None
            if kv_cache is not None:
                begins = self.blocks[0].attn.key_cache_id not in kv_cache
                shadow = {} if begins else caches.get(id(kv_cache), {})
                caches.pop(id(kv_cache), None)
                caches[id(kv_cache)] = shadow
                while len(caches) > CACHES_MAX:
                    caches.pop(next(iter(caches)))
            with torch.no_grad():
                real(large, torch.zeros_like(x), sound.expand(x.shape[0], -1, -1), shadow, return_cross_attn)
        return real(self, x, xa, kv_cache, return_cross_attn)

    decoder.forward = forward
