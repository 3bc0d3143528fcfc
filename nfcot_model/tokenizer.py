"""The worlds' own tokenizer, and the special tokens a thought needs in any tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = [
    "SPECIAL_TOKENS",
    "TokenIds",
    "add_special_tokens",
    "texts_of",
    "token_ids",
    "train_tokenizer",
]

PAD, EOS, THINK, THOUGHT, END_THINK = "<pad>", "<eos>", "<think>", "<thought>", "</think>"
SPECIAL_TOKENS = (PAD, EOS, THINK, THOUGHT, END_THINK)

# A step number (`#12`) and a single digit are one token each, so that a thought can find its
# operation by one key and arithmetic never depends on how digits were merged.
PIECES = r"[\[\],]*[a-z]\[| ?#\d+| ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d#]+|#|\s+"


@dataclass(frozen=True)
class TokenIds:
    """The ids of the tokens that frame thoughts and answers."""

    pad: int
    eos: int
    think: int
    thought: int
    end_think: int


def train_tokenizer(texts: Iterable[str], vocab_size: int = 640) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: every text round-trips, frequent words are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        extra_special_tokens=[THINK, THOUGHT, END_THINK],
        clean_up_tokenization_spaces=False,
    )


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> TokenIds:
    """Give any Hugging Face tokenizer the tokens it lacks; resize the backbone afterwards."""
    missing = [t for t in (THINK, THOUGHT, END_THINK) if t not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing})
    if tokenizer.eos_token_id is None:
        tokenizer.add_special_tokens({"eos_token": EOS})
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return token_ids(tokenizer)


def token_ids(tokenizer: PreTrainedTokenizerBase) -> TokenIds:
    """Which ids frame thoughts and answers in this tokenizer?"""
    vocabulary = tokenizer.get_vocab()
    think, thought, end_think = (vocabulary[t] for t in (THINK, THOUGHT, END_THINK))
    return TokenIds(tokenizer.pad_token_id, tokenizer.eos_token_id, think, thought, end_think)


def texts_of(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    """What does each row of token ids say, special tokens left out?

    As `batch_decode`, whose loop is left out for a tokenizer that adds nothing to its backend.
    """
    plain = type(tokenizer) is PreTrainedTokenizerFast
    if plain and not tokenizer.clean_up_tokenization_spaces:
        texts: list[str] = tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens=True)
    else:
        texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return texts
