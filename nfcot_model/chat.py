"""Prompts in a chat: the tokenizer's own template around what the user says."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash

__all__ = ["in_chat", "template_of"]


def in_chat(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], system: str | None
) -> list[str]:
    """Each prompt as the one message of a user, up to where the assistant begins.

    Raises UserError for a tokenizer without a chat template, or with one that refuses the roles.
    """
    if tokenizer.chat_template is None:
        raise UserError("model.chat: this tokenizer has no chat template; set chat to false")
    opening = [] if system is None else [{"role": "system", "content": system}]
    try:
        return [
            str(
                tokenizer.apply_chat_template(
                    [*opening, {"role": "user", "content": prompt}],
                    add_generation_prompt=True,
                    tokenize=False,
                )
            )
            for prompt in prompts
        ]
    except Exception as error:  # templates are programs, which raise what they like
        raise UserError(
            f"model.chat: the chat template refuses ({str(error).splitlines()[0]}); leave out"
            " system, or set chat to false"
        ) from None


def template_of(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """What is put around a prompt, in a form that two runs can compare."""
    if not config.chat:
        return "{prompt}"
    return f"chat {content_hash([tokenizer.chat_template, config.system])}"
