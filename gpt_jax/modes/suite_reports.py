"""What else does the suite report of a trained model, beside tasks? Text, bias, repetition, memorization.

Each is a word of --tasks, maybe with what it is to read behind a colon: 'text:files:book.txt', 'bias:crows_pairs:FILE'.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.evaluate import bias, bias_files, degeneration, memorization
from gpt_jax.evaluate.interval import wilson
from gpt_jax.evaluate.rolling import Perplexity
from gpt_jax.generate.batching import Prompt
from gpt_jax.language_model import LanguageModel
from gpt_jax.modes import answers, training_text
from gpt_jax.observe.progress import Progress

PROMPT = 32  # tokens that texts are begun with to see whether they go round in circles
LENGTH = 96  # and tokens that are written then
BIAS_FILES: dict[str, Callable[..., list[bias.Pair]]] = {
    'crows_pairs': bias_files.crows_pairs,
    'winobias': bias_files.winobias,
    'stereoset': bias_files.stereoset,
}


class About(NamedTuple):
    """Of the model that is asked.

    data: its training text, None where that is not known. examples, seed: how many of what is drawn, and which.
    stride: of long texts, in tokens; None: the context.
    """

    model: LanguageModel
    data: DataConfig | None
    examples: int
    seed: int
    stride: int | None
    line: Progress
    say: Callable[[str], None]

    def text(self, source: str = '') -> DataConfig:
        """The data of this source, or the training text.

        Raises:
          UserError: it is not known.
        """
        if source:
            return training_text.named(source, self.data.cache if self.data else '')
        if self.data is None:
            raise UserError('--corpus: no run says what the model was trained on; write files:GLOB or tfds:NAME')
        return self.data


def _text(about: About, source: str) -> dict[str, Any]:
    """Bits per byte and perplexities of the validation text, in windows `stride` apart."""
    texts = [
        text
        for text in itertools.islice(training_text.documents(about.text(source), 'validation'), about.examples)
        if text.strip()
    ]
    if not texts:
        raise UserError(f'--tasks=text:{source}: holds no validation text')
    found = []
    for number, text in enumerate(texts, 1):
        about.line.note(f'reading text {number}/{len(texts)}')
        found.append(about.model.perplexity(text, about.stride))
    whole = Perplexity(*(sum(getattr(one, part.name) for one in found) for part in dataclasses.fields(Perplexity)))
    return {
        'texts': len(texts), 'nats_per_token': whole.nats_per_token, 'bits_per_byte': whole.bits_per_byte,
        'token_perplexity': whole.token_perplexity, 'word_perplexity': whole.word_perplexity,
    }  # fmt: skip


def _bias(about: About, rest: str) -> dict[str, Any]:
    """How often the stereotype is the likelier of two sentences; of our own pairs, or of a published file's."""
    kind, _, path = rest.partition(':')
    if rest and kind not in BIAS_FILES:
        raise UserError(f'--tasks=bias:{rest}: write bias:{"|".join(BIAS_FILES)}:FILE; of winobias two, PRO,ANTI')
    pairs = BIAS_FILES[kind](*path.split(',')) if rest else bias.made()
    texts = [text for pair in pairs for text in (pair.more, pair.less)]
    fits = [len(about.model.encode(text)) < about.model.config.context for text in texts]
    scored = iter(about.model.score([('', text) for text, short in zip(texts, fits, strict=True) if short]))
    log_p = [
        next(scored).log_p if short else -about.model.perplexity(text).nats
        for text, short in zip(texts, fits, strict=True)
    ]
    return bias.score(pairs, log_p[::2], log_p[1::2])


def _degeneration(about: About, rest: str) -> dict[str, Any]:
    """Whether what the model writes, greedily and drawn, goes round in circles, beside what people wrote there."""
    model, prompts, right = about.model, [], []
    prompt = min(PROMPT, model.config.context // 4)
    length = min(LENGTH, model.config.context - prompt)
    for text in training_text.documents(about.text(rest), 'validation'):
        ids = model.encode(text[: 20 * (prompt + length)])
        if len(ids) >= prompt + length:
            prompts.append(Prompt(model.tokenizer.decode(ids[:prompt]), np.asarray(ids[:prompt])))
            right.append(model.tokenizer.decode(ids[prompt : prompt + length]))
        if len(prompts) == about.examples:
            break
    if not prompts:
        raise UserError(f'--tasks=degeneration: no validation text of {prompt + length} tokens')
    ways = {'greedy': {}, 'drawn': {'temperature': 1.0, 'top_p': 0.95, 'seed': about.seed}}
    found: dict[str, Any] = {}
    for way, given in ways.items():
        texts = [one for (one,) in answers.continued(model, prompts, {'max_new_tokens': length} | given, about.line)]
        report = degeneration.report(texts, right)
        found |= {way: report['written'], 'people': report['reference']}
    return found


def _memorization(about: About, rest: str) -> dict[str, Any]:
    """How many windows of the training text are written down again, exactly, beside windows of held-out text."""
    model = about.model
    size = min(memorization.USUAL, model.config.context // 2)
    found: dict[str, Any] = {'prefix': size, 'continuation': size}
    for split in ('train', 'validation'):
        sequences = _drawn(about, training_text.documents(about.text(rest), split), 2 * size)
        if not sequences:
            raise UserError(f'--tasks=memorization: no {split} text has {2 * size} tokens, a prompt and what follows')
        total = sum(len(one) - 2 * size + 1 for one in sequences)
        chosen = memorization.windows([len(one) for one in sequences], min(about.examples, total), 2 * size, about.seed)
        before, after = memorization.cut(sequences, chosen, size, size)
        prompts = [Prompt(model.tokenizer.decode(ids), ids.astype(np.int32)) for ids in before]
        texts = answers.continued(model, prompts, {'max_new_tokens': size}, about.line)
        same = [model.tokenizer.decode(right) == text for (text,), right in zip(texts, after, strict=True)]
        share = wilson(sum(same), len(same))
        found[split] = {'windows': len(same), 'exact': share.share, 'low': share.low, 'high': share.high}
    return found


def _drawn(about: About, texts: Iterator[str], least: int) -> list[Any]:
    """The ids of some of the texts, as many as there are windows wanted, each text with the same chance."""
    draw, kept = random.Random(f'texts {about.seed}'), list[str]()
    long = (text for text in texts if len(text.encode('utf-8')) >= least)
    for number, text in enumerate(long):
        if len(kept) < about.examples:
            kept.append(text)
        elif (place := draw.randrange(number + 1)) < len(kept):
            kept[place] = text
    ids = [np.asarray(one) for one in about.model.tokenizer.encode_batch(kept)]
    return [one for one in ids if len(one) >= least]


REPORTS: dict[str, Callable[[About, str], dict[str, Any]]] = {
    'text': _text,
    'bias': _bias,
    'degeneration': _degeneration,
    'memorization': _memorization,
}
