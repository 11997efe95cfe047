"""How is a trained model used from Python? `gpt_jax.load(folder)`, and what can be asked of it.

import gpt_jax
model = gpt_jax.load('runs/gpt_tiny')
print(model.generate('The weather today is', max_length=50)[0].text)
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gpt_jax import inference, pretrained, runtime
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.errors import UserError
from gpt_jax.evaluate import scoring
from gpt_jax.evaluate.rolling import Perplexity
from gpt_jax.evaluate.scoring import Scored
from gpt_jax.generate import batching, options, rounds, writer
from gpt_jax.generate.batching import Prompt
from gpt_jax.generate.decode import Model
from gpt_jax.generate.options import Options
from gpt_jax.generate.rounds import Drafter, Tally
from gpt_jax.generate.writer import Text, Update, Words
from gpt_jax.interop import tokenizer_files
from gpt_jax.model import loss as losses
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.gpt import GPT
from gpt_jax.pretrained import Pretrained
from gpt_jax.scorer import Pair, Scorer

LOOKUP = 'lookup'
STREAMED = 4  # steps between two pieces of a stream


def load(
    source: str | os.PathLike[str], *, step: int | None = None, draft: str | os.PathLike[str] | None = None,
    weights: str = 'float32', data: int = 1, fsdp: int = 1, tensor: int = 1,
    say: Callable[[str], None] = print,
) -> 'LanguageModel':  # fmt: skip
    """The trained model of a folder.

    Args:
      source: a run's folder, a folder of Hugging Face's layout, or a name on its hub (gpt_jax/pretrained.py).
      step: of a run, the checkpoint of this step; None: the newest.
      draft: proposes tokens, which changes the speed alone: a smaller model with the same vocabulary, named as the
        source is, or 'lookup' for the text's own past.
      weights: how matrices are kept: float32, bfloat16, int8 or int4 (gpt_jax/model/quantized.py); the draft's too.
      data: devices that share the texts.
      fsdp: devices that share the texts and the weights.
      tensor: devices that share heads, widths and vocabulary.
      say: receives lines for the user.

    Raises:
      UserError: no such model, one that is damaged, a draft of another vocabulary, fewer devices, or an argument that
        is none of these.
    """
    where, beside = _named('source', source, ''), None if draft is None else _named('draft', draft, f', or {LOOKUP!r}')
    axes = {'data': data, 'fsdp': fsdp, 'tensor': tensor}
    for name, size in axes.items():
        _require(_whole(size) and size > 0, name, 'a number of devices, 1 or above', size)
    _require(step is None or (_whole(step) and step >= 0), 'step', 'the step of a checkpoint, or None', step)
    _require(callable(say), 'say', 'a function that takes a line', say)
    inference.check_kind(weights)
    runtime.start_unless_running(math.prod(axes.values()))
    _check_devices(axes)
    found = pretrained.find(where, step=step, say=say)
    home = inference.home(found.model, **axes)
    drafter = None
    if beside is not None:
        drafter = Drafter(None, None) if beside == LOOKUP else _drafter(beside, found, home, weights, say)
    return LanguageModel(found, home, drafter, weights)


def _named(argument: str, source: Any, others: str) -> str:
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else ''
    _require(isinstance(name, str) and name != '', argument, f'the folder or the name of a model{others}', source)
    return name


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(good: bool, argument: str, wanted: str, value: Any) -> None:
    if not good:
        raise UserError(f'{argument}: wants {wanted}, got {value!r}')


def _check_devices(axes: Mapping[str, int]) -> None:
    wanted, there = math.prod(axes.values()), jax.device_count()
    if wanted > there:
        early = "load the model before JAX's first array, or " if jax.default_backend() == 'cpu' else ''
        raise UserError(f'{" x ".join(axes)} makes {wanted} devices, but there are {there}; {early}ask for fewer')


def _drafter(
    source: str, found: Pretrained, beside: inference.Home, weights: str, say: Callable[[str], None]
) -> Drafter:
    other = pretrained.find(source, asked='draft', say=say)
    one, two = found.tokenizer, other.tokenizer
    same = one.fingerprint == two.fingerprint or tokenizer_files.vocabulary(one) == tokenizer_files.vocabulary(two)
    if not same or other.model.vocab_size != found.model.vocab_size:
        raise UserError(f'draft: {source} has another vocabulary than the model it is to write for')
    if other.model.context < found.model.context:
        raise UserError(
            f"draft: {source} has a context of {other.model.context}, less than the model's {found.model.context}"
        )
    home = inference.home(other.model, **beside.axes)
    params = inference.for_writing(other.params(home.weights), other.model, weights)
    return Drafter(Model(other.model, home.place), params)


class LanguageModel:
    """A trained model on its devices.

    Attributes:
      found: what was loaded, and from where.
      config: of the model.
      tokenizer: text to ids and back.
      tally: how drafts have fared so far.
      scorer: what `score` and `perplexity` ask (gpt_jax/scorer.py).
    """

    def __init__(self, found: Pretrained, home: inference.Home, drafter: Drafter | None, weights: str):
        self.config: ModelConfig = found.model
        self.tokenizer: Tokenizer = found.tokenizer
        self.found, self._home = found, home
        self._words = Words(found.tokenizer.decode, found.ends)
        self._params = inference.for_writing(found.params(home.weights), found.model, weights)
        model = Model(found.model, home.place)
        self._device = rounds.device(
            model, self._params, drafter,
            put=lambda tree: jax.device_put(tree, home.rows), spread=lambda tree: jax.device_put(tree, home.shared),
        )  # fmt: skip
        self._full = jax.jit(self._forward)
        self.scorer = Scorer(found, home, self._params)

    @property
    def tally(self) -> Tally:
        return self._device.tally

    def generate(self, prompts: str | Sequence[str], **given: Any) -> list[Text]:
        """Texts that go on from the prompts, those of one prompt after each other.

        Args:
          prompts: one, or several, which are written together.
          given: options by name; gpt_jax/generate/options.py says what each does. Without any, the likeliest tokens.

        Raises:
          UserError: an option or a prompt that makes no sense.
        """
        texts: dict[int, Text] = {}
        for update in self.write(prompts, options.make(given)):
            if update.done is not None:
                texts[update.number] = update.done
        return [texts[number] for number in sorted(texts)]

    def stream(self, prompt: str, **given: Any) -> Iterator[str]:
        """Pieces of the one text that goes on from the prompt, as they are written; options as for `generate`."""
        if not isinstance(prompt, str):
            raise UserError('stream: takes one prompt; generate takes several')
        chosen = options.make(given)
        if chosen.num_return_sequences > 1:
            raise UserError('num_return_sequences: one text can be streamed; generate writes several')
        return (update.piece for update in self.write(prompt, chosen, block=STREAMED) if update.piece)

    def write(
        self, prompts: str | Sequence[str | Prompt], chosen: Options, *, block: int = writer.AT_ONCE
    ) -> Iterator[Update]:
        """What `generate` and `stream` are made of: every text's pieces, and the text once it is done.

        Args:
          prompts: one, or several; also as ids.
          block: steps between two looks at the texts.
        """
        several = [prompts] if isinstance(prompts, str | bytes) else prompts
        if not isinstance(several, Iterable):
            raise UserError(f'prompts: wants a string or several, got {prompts!r}')
        several = list(several)
        made = [
            text if isinstance(text, Prompt) else self._prompt(text, f'prompt {k}: ' if len(several) > 1 else '')
            for k, text in enumerate(several, 1)
        ]
        return writer.write(self._device, self._words, made, chosen, ways=self._home.ways, block=block)

    def encode(self, text: str) -> np.ndarray:
        """The ids that the model reads for a text, with what its tokenizer puts before it. int32 [L].

        Raises:
          UserError: the text is not text.
        """
        return self._prompt(text, '').ids

    def logits(self, text: str) -> np.ndarray:
        """Scores of the token after each one of the text. float32 [L, V].

        Raises:
          UserError: an empty text, or one longer than the context.
        """
        ids = self.encode(text)
        if not len(ids):
            raise UserError('the text is empty')
        if len(ids) > self.config.context:
            raise UserError(f"{len(ids)} tokens are more than the model's context of {self.config.context}")
        rows = np.zeros((self._home.ways, batching.bucket(len(ids), self.config.context)), np.int32)
        rows[:, : len(ids)] = ids
        return np.asarray(self._full(self._params, jax.device_put(rows, self._home.rows))[0, : len(ids)])

    def log_probabilities(self, text: str) -> np.ndarray:
        """log p of each token of the text but the first, given those before it, in nats. float32 [L - 1]."""
        ids = self.encode(text)
        log_p_LV = np.asarray(jax.nn.log_softmax(self.logits(text)))
        return log_p_LV[np.arange(len(ids) - 1), ids[1:]]

    def score(self, pairs: Sequence[Pair], batch: int = scoring.ROWS) -> list[Scored]:
        """log p of continuations, and whether each is what the likeliest tokens write; several rows at once.

        Args:
          pairs: of (context, continuation). Spaces at the context's end count to the continuation; an empty context
            stands for the token that texts begin with. Of a text longer than the model's context the end is read.
          batch: rows of tokens that are read at once; it changes the speed alone.

        Raises:
          UserError: a continuation that is longer than the context, or what is no text.
        """
        return self.scorer.score(pairs, batch)

    def perplexity(self, text: str, stride: int | None = None) -> Perplexity:
        """What a text of any length costs the model: each token's -log p, in windows of the context.

        Args:
          stride: tokens that a window scores; each sees at least the context less the stride. None: the context.

        Raises:
          UserError: a text without tokens, or a stride beyond the context.
        """
        return self.scorer.perplexity(text, stride)

    def _prompt(self, text: Any, which: str) -> Prompt:
        if not isinstance(text, str):
            raise UserError(f'{which}a prompt is a string, not {type(text).__name__}')
        try:
            text.encode('utf-8')
        except UnicodeEncodeError as error:
            raise UserError(f'{which}character {error.start} is half a surrogate pair, and no text') from None
        try:
            ids = np.asarray(self.tokenizer.encode(text), np.int32) if text else np.zeros(0, np.int32)
        except UserError as error:
            raise UserError(f'{which}{error}') from None
        return Prompt(text, np.concatenate([np.array(self.found.beginning, np.int32), ids]) if text else ids)

    def _forward(self, params: Any, tokens_BL: jax.Array) -> jax.Array:
        features: Any = GPT(self.config, self._home.place, train=False).apply({'params': params}, tokens_BL)
        return losses.scores(features.x_BLD, features.w_VD, self.config)[..., : self.config.vocab_size]
