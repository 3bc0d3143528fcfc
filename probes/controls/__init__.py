"""What a control reads instead of thoughts: words, lengths, prompt states, untrained thoughts.

A probe that is not better than these knows nothing of the thoughts themselves.
"""

from probes.controls.lengths import LENGTHS, length_features
from probes.controls.states import ControlStates, control_states, read_control
from probes.controls.text import count_words, decoded_texts, prompt_texts

__all__ = [
    "LENGTHS",
    "ControlStates",
    "control_states",
    "count_words",
    "decoded_texts",
    "length_features",
    "prompt_texts",
    "read_control",
]
