"""Captions of clothes: "a dark narrow dress". The words that prompts may use, and what of a picture they say.

A picture is light or dark, wide or narrow, if it is among the third of its class that is most so.
"""

import re

import numpy as np

TONES, WIDTHS = ("dark", "light"), ("narrow", "wide")
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
WORDS = ("", "a", "an", *TONES, *WIDTHS, *CLASSES[:-1], "ankle", "boot")
TOKENS = 8              # tokens of a prompt, the rest empty
FOREGROUND = 25         # of 255: what is brighter is cloth


class PromptError(ValueError):
    """A prompt cannot be read; the message names the word and those known."""


def caption(kind, tone=0, width=0):
    """The caption of a class; tone and width are -1 (dark, narrow), 1 (light, wide) or 0 (not said)."""
    said = [words[value > 0] for words, value in ((TONES, tone), (WIDTHS, width)) if value]
    words = [*said, CLASSES[kind]]
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def tokens(prompt):
    """int64 [TOKENS] of a prompt; "" is the prompt that says nothing. Raises PromptError."""
    words = re.sub(r"[.,]", " ", prompt.lower()).replace("trousers", "trouser").split()
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise PromptError(f"the prompt's word {unknown[0]!r} is unknown; known: {', '.join(WORDS[1:])}")
    if len(words) > TOKENS:
        raise PromptError(f"the prompt has {len(words)} words, the limit is {TOKENS}")
    return np.array([WORDS.index(word) for word in words] + [0] * (TOKENS - len(words)), np.int64)


def measures(pictures):
    """(brightness of the cloth, its mean width in pixels), each [N], of uint8 pictures [N, H, W]."""
    cloth = pictures > FOREGROUND
    area = np.maximum(cloth.sum((1, 2)), 1)
    tone = np.where(cloth, pictures, 0).sum((1, 2)) / area
    return tone, area / np.maximum(cloth.any(2).sum(1), 1)


def thresholds(values, labels):
    """[classes, 2]: borders between the thirds of a measure within each class."""
    return np.stack([np.quantile(values[labels == k], (1 / 3, 2 / 3)) for k in range(len(CLASSES))])


def grade(values, labels, borders):
    """-1, 0 or 1 for the lowest, middle and highest third, [N]."""
    low, high = borders[labels].T
    return (values > high).astype(np.int64) - (values < low)


def all_captions():
    """Every caption, in an order that mixes the classes."""
    grades = [(tone, width) for tone in (0, -1, 1) for width in (0, -1, 1)]
    return [caption(kind, *grade) for grade in grades for kind in range(len(CLASSES))]
