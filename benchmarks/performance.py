"""How fast is thinking beside writing, and how far from what the memory allows?

    python benchmarks/performance.py [--batch 1 16 64] [--answers 32 64 128] [--stepping compiled]
    python benchmarks/performance.py --smoke       # a tiny shape on the CPU: does it run?

A model of Qwen3-8B's shape with random weights in bf16, built on the device; nothing is downloaded.
Lines of JSON: the machine with the copy bandwidth measured on it; then for each batch size, all in
this run, the latency of a thought step and of a token step as `think` and `answer` take them (their
whole loops over their steps, without reading the prompt), beside the time that the bytes they move
would take at that bandwidth (weights once, and the whole key-value cache of fixed size); and
thinking K thoughts and answering beside writing `explicit` tokens and the same answer, both with
the prompt, for answers of several lengths, beside the ratio of their numbers of steps. Weights
decide neither figure, so random ones do. Exits 1 where a target is missed at batch 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from nfcot_model import answering, sampling
from nfcot_model.config import NFCoTConfig
from nfcot_model.layout import lay_out
from nfcot_model.model import NFCoTModel
from nfcot_model.stepping import STEPPING, cache_size

QWEN3_8B = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 32768, "vocab_size": 151936, "tie_word_embeddings": False,
}  # fmt: skip
TINY = {
    **QWEN3_8B, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300,
}  # fmt: skip
STEP_TARGET, ANSWER_TARGET = 1.35, 4.0


@dataclass(frozen=True)
class Sizes:
    """K thoughts, the tokens written in their place, answers and prompt; D, a thought's width."""

    shape: dict[str, Any]
    K: int
    explicit: int
    answers: tuple[int, ...]
    prompt: int
    D: int


FULL = Sizes(QWEN3_8B, K=64, explicit=385, answers=(32, 64, 128), prompt=256, D=2560)
SMOKE = Sizes(TINY, K=4, explicit=12, answers=(4, 6), prompt=10, D=8)


def say(**row: object) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def build(sizes: Sizes, device: str) -> NFCoTModel:
    """The model with random weights: backbone in bf16, flow and head in fp32."""
    ids = {"pad": 0, "eos": 1, "think": 2, "thought": 3, "end_think": 4}
    codec = {"alignment": "global", "slots": sizes.K, "d_model": 32, "layers": 1, "heads": 2}
    flow = {"order": "alternating", "blocks": 1, "d_model": 32, "heads": 2}
    config = NFCoTConfig(
        backbone=sizes.shape, D=sizes.D, codec=codec, flow=flow, max_thoughts=sizes.K,
        max_answer_tokens=sizes.explicit + max(sizes.answers), token_ids=ids,
    )  # fmt: skip
    with torch.device(device):
        shape = AutoConfig.for_model(**sizes.shape)
        backbone = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
        model = NFCoTModel(config, backbone).eval()
    with torch.no_grad():  # the end of the text is never written: every run has the same length
        model.get_output_embeddings().weight[ids["eos"]] = 0
    return model


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """Median of some runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bandwidth(device: str, size: int, repeats: int) -> float:
    """Bytes a second, read and written together, of a large copy."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device, max(repeats, 5))


def moved(model: NFCoTModel, positions: int, batch: int, thought: bool) -> int:
    """Bytes that one step has to read: the weights it uses, and the whole cache."""
    stack = [*model.backbone.base_model.layers, model.backbone.base_model.norm]
    used = [*stack, model.nf_head, model.projection] if thought else stack
    weights = sum(p.numel() * p.element_size() for part in used for p in part.parameters())
    if not thought:
        head = model.get_output_embeddings().weight
        weights += head.numel() * head.element_size()
    shape = model.backbone.config
    row = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * 2
    return weights + batch * positions * row


class Run:
    """One batch size: streams over the same prompts, and what is done on them."""

    def __init__(self, model: NFCoTModel, sizes: Sizes, batch: int, stepping: Any) -> None:
        self.model, self.sizes, self.batch, self.stepping = model, sizes, batch, stepping
        generator = torch.Generator().manual_seed(0)
        vocabulary = int(sizes.shape["vocab_size"])
        prompts = torch.randint(5, vocabulary, (batch, sizes.prompt), generator=generator).tolist()
        layout = lay_out(prompts, [0] * batch, model.ids, close=False, side="left")
        self.layout = layout.to(model.device)
        self.noise = torch.randn(batch, sizes.K, sizes.D, generator=generator).to(model.device)
        self.room = max(sizes.K + 1, sizes.explicit) + max(sizes.answers)

    def open(self) -> sampling.Stream:
        nothing = self.noise.new_zeros(self.batch, 1, self.sizes.D)
        return sampling.Stream(
            self.model, self.layout, nothing, stepping=self.stepping, room=self.room
        )

    def think(self, stream: sampling.Stream) -> None:
        sampling.think(stream, self.noise)

    def close(self, stream: sampling.Stream) -> None:
        end = torch.full((self.batch, 1), self.model.ids.end_think, device=self.model.device)
        with torch.no_grad():
            stream.extend(self.model.get_input_embeddings()(end), end > 0)

    def write(self, stream: sampling.Stream, tokens: int) -> None:
        said = answering.answer(stream, max_tokens=tokens)
        assert all(len(row) == tokens for row in said), "a text ended early"


def measure(model: NFCoTModel, sizes: Sizes, batch: int, asked: Any, copied: float) -> bool:
    run = Run(model, sizes, batch, asked.stepping)
    if asked.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()

    def timed(work: Callable[[sampling.Stream], object]) -> float:
        times = []
        for index in range(asked.repeats + 1):
            stream = run.open()
            wait(asked.device)
            start = time.perf_counter()
            work(stream)
            wait(asked.device)
            if index:
                times.append(time.perf_counter() - start)
            del stream
        return statistics.median(times)

    def latent(answer: int) -> None:
        stream = run.open()
        run.think(stream)
        run.close(stream)
        run.write(stream, answer)

    def explicit(answer: int) -> None:
        stream = run.open()
        run.write(stream, sizes.explicit)
        run.close(stream)
        run.write(stream, answer)

    def beside(answer: int) -> dict[str, float]:
        short, long = (
            seconds(partial(work, answer), asked.device, asked.repeats)
            for work in (latent, explicit)
        )
        fewer = (sizes.explicit + answer) / (sizes.K + answer)
        return {
            "answer": answer, "think_and_answer_s": short, "write_and_answer_s": long,
            "times_faster": long / short, "times_fewer_steps": fewer,
        }  # fmt: skip

    thought = timed(run.think) / sizes.K
    token = timed(lambda stream: run.write(stream, sizes.explicit)) / sizes.explicit
    positions = run.layout.input_ids.shape[1] + run.room
    if asked.stepping != "growing":
        positions = cache_size(positions)
    limits = [moved(model, positions, batch, kind) / copied for kind in (True, False)]
    answers = [beside(answer) for answer in sizes.answers]
    peak = (
        torch.cuda.max_memory_allocated()
        if asked.device.startswith("cuda")
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    targets = {
        f"thought step within {STEP_TARGET} x of the limit": thought <= STEP_TARGET * limits[0],
        f"{ANSWER_TARGET:g} x faster with the shortest answer": (
            answers[0]["times_faster"] >= ANSWER_TARGET
        ),
    }
    say(
        batch=batch, stepping=asked.stepping, K=sizes.K, explicit=sizes.explicit,
        prompt=sizes.prompt, cache_positions=positions,
        thought_ms=1e3 * thought, token_ms=1e3 * token,
        thoughts_per_second=batch / thought, tokens_per_second=batch / token,
        thought_limit_ms=1e3 * limits[0], token_limit_ms=1e3 * limits[1],
        thought_share_of_bandwidth=limits[0] / thought, token_share_of_bandwidth=limits[1] / token,
        answers=answers, peak_memory_gb=peak / 1e9,
        within_target=None if asked.smoke or batch > 1 else targets,
    )  # fmt: skip
    return asked.smoke or batch > 1 or all(targets.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+")
    parser.add_argument("--answers", type=int, nargs="+", help="how many tokens they have")
    parser.add_argument("--stepping", choices=STEPPING)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    sizes = SMOKE if asked.smoke else FULL
    if asked.answers:
        sizes = replace(sizes, answers=tuple(sorted(asked.answers)))
    batches = asked.batch or ([1, 2] if asked.smoke else [1, 16, 64])
    asked.stepping = asked.stepping or ("static" if asked.smoke else "compiled")
    on_gpu = asked.device.startswith("cuda")
    model = build(sizes, asked.device)
    copied = bandwidth(asked.device, 2**30 if on_gpu else 2**26, asked.repeats)
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    say(
        device=name, threads=torch.get_num_threads(), smoke=asked.smoke, torch=torch.__version__,
        transformers=transformers.__version__, copy_gb_per_second=copied / 1e9,
        parameters=sum(p.numel() for p in model.backbone.parameters()), dtype="bfloat16",
    )  # fmt: skip
    held = [measure(model, sizes, batch, asked, copied) for batch in batches]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
