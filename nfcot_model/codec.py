"""The codec: a small VAE between reasoning text and codec latents `e`.

It never sees the prompt, so decoded text cannot leak it. Encoder: causal transformer over the text
followed by learned memory slots (the LaDiR / ICAE form, arXiv 2510.04573); decoder: causal
transformer that writes the text back from noisy latents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfcot_model.config import CodecConfig
from nfcot_model.greedy import likeliest
from nfcot_model.placewise import Placewise, side_by_side
from nfcot_model.transformer import CausalTransformer

__all__ = ["ThoughtCodec"]

FIT_ROWS = 64


class ThoughtCodec(nn.Module):
    """Text chunks [N, L] (ids, padded with -1 behind) ⇄ latents [N, slots, D].

    A chunk is one reasoning step (`alignment="step"`) or the whole reasoning (`"global"`).
    `e` is the posterior mean, standardised per slot and dimension with the stored statistics.
    """

    latent_mean: Tensor
    latent_std: Tensor
    decoding: Final = ("from_latent", "decoder", "to_vocab")  # the rest says what `e` means

    def __init__(self, D: int, config: CodecConfig, vocab_size: int, eos: int) -> None:
        super().__init__()
        self.config, self.eos = config, eos
        self.embed = nn.Embedding(vocab_size, config.d_model)
        self.memory = nn.Parameter(torch.randn(config.slots, config.d_model) * 0.02)
        self.encoder = self._transformer(config.layers)
        self.to_posterior = nn.Linear(config.d_model, 2 * D)
        self.from_latent = nn.Linear(D, config.d_model)
        self.decoder = self._transformer(config.decoder_layers or config.layers)
        self.to_vocab = nn.Linear(config.d_model, vocab_size)
        self.register_buffer("latent_mean", torch.zeros(config.slots, D))
        self.register_buffer("latent_std", torch.ones(config.slots, D))

    def _transformer(self, layers: int) -> CausalTransformer:
        length = self.config.max_text_tokens + 1 + self.config.slots
        return CausalTransformer(self.config.d_model, layers, self.config.heads, length)

    def exchange_decoder(self, layers: int) -> None:
        """An untrained decoder transformer of so many layers between the maps that were around it.

        Latents of texts do not change, and only what is `decoding` can learn from here on.
        """
        self.config = replace(self.config, decoder_layers=layers)
        self.decoder = self._transformer(layers).to(self.latent_mean)
        self.requires_grad_(False)
        for name in self.decoding:
            self.get_submodule(name).requires_grad_(True)

    def posterior(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [N, slots, D] of the latents of each text chunk."""
        n = len(ids)
        lengths = (ids >= 0).sum(-1)
        slots = self.config.slots
        embedded = self.embed(ids.clamp(min=0))
        places = lengths[:, None] + torch.arange(slots, device=ids.device)
        x = torch.cat([embedded, embedded.new_zeros(n, slots, embedded.shape[-1])], dim=1)
        index = places[..., None].expand(-1, -1, x.shape[-1])
        x = x.scatter(1, index, self.memory.expand(n, -1, -1).to(x.dtype))
        states = self.encoder(x).gather(1, index)
        mean, logvar = self.to_posterior(states).chunk(2, dim=-1)
        return mean, logvar.clamp(-12, 4)

    def encode(self, ids: Tensor) -> Tensor:
        """`e` [N, slots, D]: the standardised posterior mean of each text chunk."""
        mean, _ = self.posterior(ids)
        return (mean - self.latent_mean) / self.latent_std

    def raw(self, e: Tensor) -> Tensor:
        """Undo the standardisation."""
        return e * self.latent_std + self.latent_mean

    def logits(self, latents: Tensor, ids: Tensor) -> Tensor:
        """Next-token logits [N, L + 1, vocab] for text `ids` after raw latents [N, slots, D]."""
        x = torch.cat([self.from_latent(latents), self.embed(ids.clamp(min=0))], dim=1)
        return self.to_vocab(self.decoder(x)[:, self.config.slots - 1 :])

    def forward(self, ids: Tensor, kl_weight: float, noise: float) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sum of reconstruction (nats per token) and KL (nats per dimension), and both.

        The decoder reads a posterior sample plus Gaussian noise of `noise` batch standard
        deviations, because thoughts are sampled, never exact.
        """
        mean, logvar = self.posterior(ids)
        sample = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        scale = mean.detach().std(0, keepdim=True) if len(mean) > 1 else 1.0
        sample = sample + noise * scale * torch.randn_like(mean)
        end = functional.pad(ids, (0, 1), value=-1)
        ends = (ids >= 0).sum(-1, keepdim=True)
        target = end.scatter(1, ends, self.eos)
        nll = functional.cross_entropy(
            self.logits(sample, ids).flatten(0, 1), target.flatten(), ignore_index=-1
        )
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return nll + kl_weight * kl, nll, kl

    @torch.no_grad()
    def fit_statistics(self, ids: Tensor) -> None:
        """Store the mean and standard deviation that make `e` standardised on these texts."""
        mean = torch.cat([self.posterior(part)[0] for part in ids.split(FIT_ROWS)])
        self.latent_mean.copy_(mean.mean(0))
        self.latent_std.copy_(mean.std(0).clamp(min=1e-4))

    @torch.inference_mode()
    def write(self, e: Tensor) -> list[list[int]]:
        """Which text (token ids, greedy) does each latent chunk [N, slots, D] stand for?

        Chunks whose text has ended cost nothing more once they are a quarter.
        """
        with torch.autocast(e.device.type, enabled=False):
            written = self._written(e)
        lengths = (written != self.eos).sum(-1).tolist()
        return [row[:n] for row, n in zip(written.tolist(), lengths, strict=True)]

    def _written(self, e: Tensor) -> Tensor:
        """Token ids [N, max_text_tokens], `eos` behind the end of each text."""
        most = self.config.max_text_tokens
        written = torch.full((len(e), most), self.eos, device=e.device)
        rows = torch.arange(len(e), device=e.device)
        goes_on = torch.ones_like(rows, dtype=torch.bool)
        decoder = Placewise([self.decoder])
        (weight,), ((bias,),) = side_by_side([self.to_vocab], [self.decoder.norm])
        best = likeliest(weight, bias)
        states = decoder.next(self.from_latent(self.raw(e)).transpose(0, 1)[None])
        for place in range(most):
            token = best(states[0, -1]).where(goes_on, self.eos)
            written[rows, place] = token
            goes_on = token != self.eos
            left = int(goes_on.sum())
            if not left or place + 1 == most:
                break
            if left <= 0.75 * len(rows):
                going = goes_on.nonzero()[:, 0]
                rows, token, goes_on = rows[going], token[going], goes_on[going]
                decoder.keep(going)
            states = decoder.next(self.embed(token)[None, None])
        return written
