"""Texts as a network takes them: encoded on the host, put into a program's tables by label before a job.

A file of texts is an .npz with ``states`` [texts, tokens, C], the first of no text, where texts have different numbers of tokens
``mask`` [texts, tokens], 1 for tokens that count, and where the model adds them ``pooled`` [texts, C'] and ``time_ids`` [6].
"""

from dataclasses import dataclass, replace

import numpy as np

BLOCK = 16              # keys of an attention come in multiples
USUAL_TOKENS = 77       # of CLIP's text encoders
MASKED = -16.0          # added to the score of a token that does not count: the lowest argument of the engine's exponential


class TextError(ValueError):
    """Texts cannot be read, encoded or used with a program; the message says why."""


@dataclass
class TextStates:
    """What texts give to a network, the first one no text: states [texts, tokens, C]; pooled [texts, C'], time_ids [6], or None;
    mask [texts, tokens], 1 for tokens that count, None: all do."""
    states: np.ndarray
    pooled: np.ndarray | None = None
    time_ids: np.ndarray | None = None
    mask: np.ndarray | None = None

    def __len__(self):
        return len(self.states)

    def picked(self, rows):
        """Some of the texts."""
        of_rows = lambda values: None if values is None else values[rows]
        return replace(self, states=self.states[rows], pooled=of_rows(self.pooled), mask=of_rows(self.mask))

    def repeated(self, count):
        """``count`` texts: these, those after the first over and over."""
        others = max(1, len(self) - 1)
        return self.picked(np.array([0] + [min(1 + i % others, len(self) - 1) for i in range(count - 1)]))

    def tables(self):
        """{name of the graph's table: values}."""
        states = self.states if self.mask is None else last_repeated(self.states, self.mask)
        tables = {"encoder_hidden_states": padded_tokens(states)}
        if self.mask is not None:
            tables["encoder_attention_mask"] = padded_mask(self.mask)
        return tables if self.pooled is None else tables | {"text_embeds": self.pooled}


def padded_tokens(states):
    """States as a table [texts, C, tokens], the last token repeated up to a multiple of BLOCK; those past the real ones get no weight."""
    fill = -states.shape[1] % BLOCK
    return np.pad(states, ((0, 0), (0, fill), (0, 0)), mode="edge").transpose(0, 2, 1)


def last_repeated(states, mask):
    """States in which the last token that counts stands for those that do not: the largest score of a row is then one that counts."""
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    return np.where(mask[:, :, None] > 0, states, states[np.arange(len(states)), last][:, None])


def padded_mask(mask):
    """What is added to the scores, a table [texts, tokens], up to a multiple of BLOCK: 0, or MASKED for tokens that do not count."""
    return np.pad(np.where(mask > 0, 0.0, MASKED), ((0, 0), (0, -mask.shape[1] % BLOCK)), constant_values=MASKED)


def load_texts(path):
    """TextStates of a file. Raises TextError."""
    try:
        with np.load(path) as data:
            arrays = {name: np.asarray(data[name], float) for name in data.files}
    except (OSError, ValueError) as error:
        raise TextError(f"{path}: cannot be read as a file of texts: {error}") from error
    unknown = set(arrays) - {"states", "pooled", "time_ids", "mask"}
    if "states" not in arrays or unknown or arrays["states"].ndim != 3:
        raise TextError(f"{path}: holds {', '.join(f'{k} {v.shape}' for k, v in arrays.items())}; must be states [texts, tokens, C], and "
                        "perhaps mask [texts, tokens], pooled [texts, C] and time_ids [6]")
    texts = TextStates(**arrays)
    if texts.pooled is not None and len(texts.pooled) != len(texts):
        raise TextError(f"{path}: {len(texts)} states, {len(texts.pooled)} pooled embeddings; must be as many")
    check_mask(path, texts)
    return texts


def check_mask(path, texts):
    """Raise TextError for a mask of texts of a file that is none."""
    if texts.mask is None:
        return
    if texts.mask.shape != texts.states.shape[:2] or not np.isin(texts.mask, (0, 1)).all():
        raise TextError(f"{path}: mask {texts.mask.shape} of states {texts.states.shape}; must be 0 or 1 for each token of each text")
    if not texts.mask.any(1).all():
        raise TextError(f"{path}: no token of text {int(texts.mask.any(1).argmin())} counts, by its mask; at least one must")


def encode(encoder, prompts):
    """TextStates of prompts by an encoder's name. Raises TextError, PromptError."""
    if encoder != "wardrobe":
        raise TextError("the program knows no encoder of prompts: give a file of texts (--texts), encoded as for the compilation")
    from litediffusion.sw.wardrobe.text import encode as encode_wardrobe

    return TextStates(encode_wardrobe(prompts))


def encode_prompts(program, prompts):
    """TextStates of the empty prompt and of ``prompts`` for a program. Raises TextError, PromptError."""
    if not program.meta.get("text"):
        raise TextError(f"{program.meta['name']}: the program takes labels, not prompts")
    return encode(program.meta["text"]["encoder"], ["", *prompts])
