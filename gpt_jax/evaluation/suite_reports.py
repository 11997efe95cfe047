"""Reports of the suite beyond tasks: perplexity of text, bias, repetition and memorization.

Each is named by a word in --tasks, optionally followed by a colon and its input, as in
'text:files:book.txt' or 'bias:crows_pairs:FILE'.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core import files
from gpt_jax.core.config import DataConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.evaluation import bias, contamination, degeneration, memorization
from gpt_jax.evaluation.generated_answers import generate_texts
from gpt_jax.evaluation.statistics import wilson_interval
from gpt_jax.inference.batching import TokenizedPrompt
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.inference.text_scoring import Perplexity

PROMPT_TOKENS = 32  # of the prompts of the degeneration report
NEW_TOKENS = 96  # generated per prompt
BIAS_READERS: dict[str, Callable[..., list[bias.SentencePair]]] = {
    'crows_pairs': bias.read_crows_pairs,
    'winobias': bias.read_winobias,
    'stereoset': bias.read_stereoset,
}


class EvalContext(NamedTuple):
    """The model and the options of a report.

    Attributes:
      training_data: the model's training text; None: unknown.
      max_examples: maximum number of examples per report.
      seed: seed for examples drawn at random and for sampling.
      stride: tokens between the windows of a long text; None: the context.
    """

    model: LanguageModel
    training_data: DataConfig | None
    max_examples: int
    seed: int
    stride: int | None
    progress: Progress
    log: LogFn

    def find_text(self, source: str = '') -> DataConfig:
        """Return the data of a source, or by default the training text.

        Raises:
          UserError: the training text is unknown.
        """
        if source:
            cache = self.training_data.cache if self.training_data else ''
            return contamination.make_data_config(source, cache)
        if self.training_data is None:
            raise UserError(
                '--corpus: must be files:GLOB or tfds:NAME, got none; '
                "the model's training text is unknown"
            )
        return self.training_data

    def iterate_documents(self, source: str, split: str) -> Iterator[str]:
        """Yield the texts of a split of a source, by default of the training text."""
        return contamination.iterate_documents(self.find_text(source), split)


def _report_text(context: EvalContext, source: str) -> dict[str, Any]:
    """Measure bits per byte and perplexities of the validation text."""
    documents = context.iterate_documents(source, 'validation')
    first = itertools.islice(documents, context.max_examples)
    texts = [text for text in first if text.strip()]
    if not texts:
        raise UserError(f'--tasks=text:{source}: has no validation text')
    perplexities = []
    for number, text in enumerate(texts, 1):
        context.progress.note(f'reading text {number}/{len(texts)}')
        perplexities.append(context.model.perplexity(text, context.stride))
    fields = [field.name for field in dataclasses.fields(Perplexity)]
    total = Perplexity(*(sum(getattr(part, name) for part in perplexities) for name in fields))
    return {
        'texts': len(texts),
        'nats_per_token': total.nats_per_token,
        'bits_per_byte': total.bits_per_byte,
        'token_perplexity': total.token_perplexity,
        'word_perplexity': total.word_perplexity,
    }


def _report_bias(context: EvalContext, source: str) -> dict[str, Any]:
    """Measure how often the stereotype is the likelier sentence of a pair.

    Args:
      source: 'READER:FILE' of a published set; '': the occupation pairs of bias.py.
    """
    model = context.model
    reader, _, path = source.partition(':')
    if source and reader not in BIAS_READERS:
        raise UserError(
            f'--tasks: must be bias:{"|".join(BIAS_READERS)}:FILE, got bias:{source}; '
            'winobias takes two files, PRO,ANTI'
        )
    paths = [files.expand_home(part, '--tasks') for part in path.split(',')]
    pairs = BIAS_READERS[reader](*paths) if source else bias.make_occupation_pairs()
    texts = [text for pair in pairs for text in (pair.stereotype, pair.anti_stereotype)]
    fits = [len(model.encode(text)) < model.config.context for text in texts]
    short = [('', text) for text, fit in zip(texts, fits, strict=True) if fit]
    scores = iter(model.score(short))
    log_p = [
        next(scores).log_p if fit else -model.perplexity(text).nats
        for text, fit in zip(texts, fits, strict=True)
    ]
    return bias.score_bias(pairs, log_p[::2], log_p[1::2])


def _report_degeneration(context: EvalContext, source: str) -> dict[str, Any]:
    """Compare the repetition of greedy and sampled text with that of human text."""
    model = context.model
    prompt_size = min(PROMPT_TOKENS, model.config.context // 4)
    new_tokens = min(NEW_TOKENS, model.config.context - prompt_size)
    size = prompt_size + new_tokens
    prompts, references = [], []
    for text in context.iterate_documents(source, 'validation'):
        ids = model.encode(text[: 20 * size])
        if len(ids) >= size:
            prompt = ids[:prompt_size]
            prompts.append(TokenizedPrompt(model.tokenizer.decode(prompt), np.asarray(prompt)))
            references.append(model.tokenizer.decode(ids[prompt_size:size]))
        if len(prompts) == context.max_examples:
            break
    if not prompts:
        raise UserError(f'--tasks=degeneration: no validation text has {size} tokens')
    sampling = {'temperature': 1.0, 'top_p': 0.95, 'seed': context.seed}
    reports: dict[str, Any] = {}
    for name, options in {'greedy': {}, 'drawn': sampling}.items():
        options = {'max_new_tokens': new_tokens} | options
        generated = generate_texts(model, prompts, options, context.progress)
        report = degeneration.report_repetition([text for (text,) in generated], references)
        reports |= {name: report['written'], 'people': report['reference']}
    return reports


def _report_memorization(context: EvalContext, source: str) -> dict[str, Any]:
    """Measure how many windows of training and of held-out text the model continues exactly.

    The prefix and the continuation have the same number of tokens.
    """
    model = context.model
    size = min(memorization.DEFAULT_TOKENS, model.config.context // 2)
    reports: dict[str, Any] = {'prefix': size, 'continuation': size}
    for split in ('train', 'validation'):
        documents = context.iterate_documents(source, split)
        sequences = _sample_sequences(context, documents, 2 * size)
        if not sequences:
            raise UserError(
                f'--tasks=memorization: no {split} text has {2 * size} tokens, '
                'for a prefix and its continuation'
            )
        lengths = [len(ids) for ids in sequences]
        count = min(context.max_examples, sum(length - 2 * size + 1 for length in lengths))
        windows = memorization.sample_windows(lengths, count, 2 * size, context.seed)
        prefixes, references = memorization.split_windows(sequences, windows, size, size)
        prompts = [
            TokenizedPrompt(model.tokenizer.decode(ids), ids.astype(np.int32)) for ids in prefixes
        ]
        generated = generate_texts(model, prompts, {'max_new_tokens': size}, context.progress)
        exact = [
            model.tokenizer.decode(reference) == text
            for (text,), reference in zip(generated, references, strict=True)
        ]
        proportion = wilson_interval(sum(exact), len(exact))
        reports[split] = {
            'windows': len(exact),
            'exact': proportion.share,
            'low': proportion.low,
            'high': proportion.high,
        }
    return reports


def _sample_sequences(
    context: EvalContext, documents: Iterator[str], min_size: int
) -> list[np.ndarray]:
    """Return the ids of a uniform sample of documents (reservoir sampling).

    Args:
      min_size: minimum number of tokens; shorter documents are dropped.
    """
    rng, sample = random.Random(f'texts {context.seed}'), list[str]()
    # No tokenizer produces more tokens than bytes.
    long = (text for text in documents if len(text.encode('utf-8')) >= min_size)
    for number, text in enumerate(long):
        if len(sample) < context.max_examples:
            sample.append(text)
        elif (position := rng.randrange(number + 1)) < len(sample):
            sample[position] = text
    sequences = [np.asarray(ids) for ids in context.model.tokenizer.encode_batch(sample)]
    return [ids for ids in sequences if len(ids) >= min_size]


REPORTS: dict[str, Callable[[EvalContext, str], dict[str, Any]]] = {
    'text': _report_text,
    'bias': _report_bias,
    'degeneration': _report_degeneration,
    'memorization': _report_memorization,
}
