"""Python API of trained models: load, generate, stream and score.

import gpt_jax

model = gpt_jax.load('runs/gpt_tiny')
print(model.generate('The weather today is', max_new_tokens=50)[0].text)
for piece in model.stream('The weather today is', temperature=0.8, seed=1):
    print(piece, end='', flush=True)
print(model.perplexity('The weather today is fine.').bits_per_byte)
"""

import functools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gpt_jax.core import jax_setup
from gpt_jax.core.config import ModelConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.data.tokenizer import Tokenizer, encode_special_tokens
from gpt_jax.inference import scoring, text_stream
from gpt_jax.inference.batching import TokenizedPrompt, round_up_to_bucket
from gpt_jax.inference.decode import InferenceModel
from gpt_jax.inference.engine import DraftModel, SpeculativeStats, make_engine
from gpt_jax.inference.options import GenerationOptions, make_options
from gpt_jax.inference.placement import (
    InferencePlacement,
    check_weight_dtype,
    make_placement,
    prepare_params,
)
from gpt_jax.inference.pretrained import Pretrained, find_pretrained
from gpt_jax.inference.scoring import ContinuationScore
from gpt_jax.inference.text_scoring import Perplexity, Scorer, ScoringPair, check_text
from gpt_jax.inference.text_stream import Detokenizer, GeneratedText, TokenChunk
from gpt_jax.interop import tokenizer_files
from gpt_jax.model import loss as losses
from gpt_jax.model.gpt import GPT

LOOKUP = 'lookup'  # draft: prompt lookup instead of a model
STREAM_STEPS = 4  # decoding steps between two pieces of a stream


def load(
    source: str | os.PathLike[str],
    *,
    step: int | None = None,
    draft: str | os.PathLike[str] | None = None,
    weight_dtype: str = 'float32',
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    log: LogFn = print,
) -> 'LanguageModel':
    """Load a trained model.

    Args:
      source: a run folder, a Hugging Face or PEFT folder, or a name on the Hugging Face hub; see
        gpt_jax/inference/pretrained.py.
      step: step of a run's checkpoint; None: the newest.
      draft: a smaller model with the same vocabulary, given like `source`, or 'lookup' to propose
        what followed earlier occurrences in the text itself; speeds up generation without changing
        its distribution.
      weight_dtype: dtype in which matrices are stored, those of the draft model included: float32,
        bfloat16, int8 or int4; see gpt_jax/model/quantization.py.
      data: number of devices among which the texts are divided.
      fsdp: number of devices among which the texts and the weights are divided.
      tensor: number of devices among which heads, widths and vocabulary are divided.
      log: receives lines for the user.

    Returns:
      The model, on its devices.

    Raises:
      UserError: an invalid argument, a missing or damaged model, a draft with a different
        vocabulary, or fewer devices than requested.

    Example:
      >>> model = gpt_jax.load('runs/gpt_tiny')
      >>> model = gpt_jax.load('gpt2', weight_dtype='int8', draft='lookup')
    """
    source_name = _check_source('source', source, '')
    draft_name = None if draft is None else _check_source('draft', draft, f', or {LOOKUP!r}')
    axes = {'data': data, 'fsdp': fsdp, 'tensor': tensor}
    for name, size in axes.items():
        _require(_is_integer(size) and size > 0, name, 'a number of devices, at least 1', size)
    step_is_valid = step is None or (_is_integer(step) and step >= 0)
    _require(step_is_valid, 'step', 'the step of a checkpoint, or None', step)
    _require(callable(log), 'log', 'a function that takes a line', log)
    check_weight_dtype(weight_dtype)
    jax_setup.start_jax_unless_running(math.prod(axes.values()))
    _check_devices(axes)
    pretrained = find_pretrained(source_name, step=step, log=log)
    placement = make_placement(pretrained.model_config, **axes)
    draft_model = None
    if draft_name == LOOKUP:
        draft_model = DraftModel(None, None)
    elif draft_name is not None:
        draft_model = _load_draft(draft_name, pretrained, axes, weight_dtype, log)
    return LanguageModel(pretrained, placement, draft_model, weight_dtype)


def _check_source(argument: str, source: Any, alternatives: str) -> str:
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else ''
    is_name = isinstance(name, str) and name != ''
    _require(is_name, argument, f'the folder or the name of a model{alternatives}', source)
    return name


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds: bool, argument: str, requirement: str, value: Any) -> None:
    if not holds:
        raise UserError(f'{argument}: must be {requirement}, got {value!r}')


def _check_devices(axes: Mapping[str, int]) -> None:
    requested, available = math.prod(axes.values()), jax.device_count()
    if requested > available:
        on_cpu = jax.default_backend() == 'cpu'
        hint = "load the model before JAX's first array, or " if on_cpu else ''
        raise UserError(
            f'{" x ".join(axes)}: must be at most {available} devices, got {requested}; '
            f'{hint}request fewer'
        )


def _load_draft(
    source: str, main: Pretrained, axes: Mapping[str, int], weight_dtype: str, log: LogFn
) -> DraftModel:
    """Load a draft model for the model `main`."""
    draft = find_pretrained(source, argument='draft', log=log)
    same_vocabulary = (
        draft.tokenizer.fingerprint == main.tokenizer.fingerprint
        or tokenizer_files.get_vocabulary(draft.tokenizer)
        == tokenizer_files.get_vocabulary(main.tokenizer)
    )
    config, main_config = draft.model_config, main.model_config
    if not same_vocabulary or config.vocab_size != main_config.vocab_size:
        raise UserError(f"draft: must have the model's vocabulary, got a different one in {source}")
    if config.context < main_config.context:
        raise UserError(
            f"draft: must have at least the model's context of {main_config.context}, "
            f'got {config.context} in {source}'
        )
    placement = make_placement(config, **axes)
    params = prepare_params(draft.load_params(placement.weight_shardings), config, weight_dtype)
    return DraftModel(InferenceModel(config, placement.policy), params)


class LanguageModel:
    """A trained model on its devices, as returned by `gpt_jax.load`.

    Attributes:
      config: the model's config.
      tokenizer: text to ids and back.
      pretrained: the loaded model and its source.
      scorer: scores texts; used by `score` and `perplexity`.

    Example:
      >>> model = gpt_jax.load('runs/gpt_tiny')
      >>> model.config.context, model.tokenizer.vocab_size
      >>> texts = model.generate(['One', 'Two'], num_return_sequences=2, temperature=0.8)
      >>> texts[0].continuation, texts[0].finish_reason
    """

    def __init__(
        self,
        pretrained: Pretrained,
        placement: InferencePlacement,
        draft: DraftModel | None,
        weight_dtype: str,
    ):
        self.config: ModelConfig = pretrained.model_config
        self.tokenizer: Tokenizer = pretrained.tokenizer
        self.pretrained = pretrained
        self._placement = placement
        self._detokenizer = Detokenizer(pretrained.tokenizer.decode, pretrained.end_ids)
        stored_params = pretrained.load_params(placement.weight_shardings)
        self._params = prepare_params(stored_params, pretrained.model_config, weight_dtype)
        self._engine = make_engine(
            InferenceModel(pretrained.model_config, placement.policy),
            self._params,
            draft,
            put_rows=lambda tree: jax.device_put(tree, placement.row_sharding),
            replicate=lambda tree: jax.device_put(tree, placement.replicated),
        )
        self._forward = jax.jit(self._compute_logits)
        self.scorer = Scorer(pretrained, placement, self._params)

    @property
    def speculative_stats(self) -> SpeculativeStats:
        """The numbers of draft tokens proposed and accepted so far."""
        return self._engine.speculative_stats

    def generate(self, prompts: str | Sequence[str], **options: Any) -> list[GeneratedText]:
        """Generate texts that continue the prompts.

        Args:
          prompts: one prompt, or several to continue together.
          **options: generation options by name, as for transformers' `generate`; documented in
            gpt_jax/inference/options.py. Greedy by default; any sampling option enables sampling.

        Returns:
          The texts, grouped by prompt, in the order of the prompts.

        Raises:
          UserError: an invalid option, or a prompt that does not fit into the model's context.

        Example:
          >>> greedy = model.generate('Once upon a time', max_new_tokens=50)
          >>> sampled = model.generate(['One', 'Two'], temperature=0.8, top_p=0.95, seed=1)
          >>> beams = model.generate('One', num_beams=4, num_return_sequences=2)
        """
        texts: dict[int, GeneratedText] = {}
        for chunk in self.stream_chunks(prompts, make_options(options)):
            if chunk.result is not None:
                texts[chunk.number] = chunk.result
        return [texts[index] for index in sorted(texts)]

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Generate one text and yield its pieces as they are produced.

        Args:
          prompt: what the text continues.
          **options: as for `generate`.

        Raises:
          UserError: as for `generate`; also for several prompts or `num_return_sequences` above 1.

        Example:
          >>> for piece in model.stream('Once upon a time', temperature=0.8):
          ...     print(piece, end='', flush=True)
        """
        if not isinstance(prompt, str):
            raise UserError('prompt: must be a single string; generate takes several')
        checked = make_options(options)
        if checked.num_return_sequences > 1:
            raise UserError(
                f'num_return_sequences: must be 1 in a stream, got {checked.num_return_sequences}; '
                'generate returns several texts'
            )
        chunks = self.stream_chunks(prompt, checked, block=STREAM_STEPS)
        return (chunk.text for chunk in chunks if chunk.text)

    def stream_chunks(
        self,
        prompts: str | Sequence[str | TokenizedPrompt],
        options: GenerationOptions,
        *,
        block: int = text_stream.UNINTERRUPTED_STEPS,
    ) -> Iterator[TokenChunk]:
        """Generate texts and yield the chunks of all of them; used by `generate` and `stream`.

        Args:
          prompts: one prompt or several, as strings or token ids.
          options: checked options; see `make_options`.
          block: decoding steps between chunks; results do not depend on it.

        Raises:
          UserError: a prompt is not text; or, at the first chunk, a prompt or an option does not
            suit the model.
        """
        items = [prompts] if isinstance(prompts, str | bytes) else prompts
        if not isinstance(items, Iterable):
            raise UserError(f'prompts: must be a string or a list of strings, got {prompts!r}')
        items = list(items)
        encoded = [
            item
            if isinstance(item, TokenizedPrompt)
            else self._encode_prompt(
                item,
                f'prompt {number}' if len(items) > 1 else 'prompt',
                special_tokens=not options.special_tokens_as_text,
            )
            for number, item in enumerate(items, 1)
        ]
        return text_stream.stream_texts(
            self._engine,
            self._detokenizer,
            encoded,
            options,
            row_shards=self._placement.row_shards,
            block=block,
        )

    def encode(self, text: str) -> np.ndarray:
        """Return the model's input ids for a text, prefix ids included. int32 [L].

        The names of special tokens in it are read as text, as in training data and in `score` and
        `perplexity`.

        Raises:
          UserError: `text` is not valid text.
        """
        return self._encode_prompt(text, 'text', special_tokens=False).ids

    def logits(self, text: str) -> np.ndarray:
        """Return the logits of the next token after each token of a text. float32 [L, V].

        The names of special tokens in it are read as these tokens, as in the prompts of `generate`.

        Raises:
          UserError: the text is empty or longer than the model's context.

        Example:
          >>> logits = model.logits('The weather')
          >>> model.tokenizer.decode([logits[-1].argmax()])  # the most likely next token
        """
        ids, context = self._encode_prompt(text, 'text').ids, self.config.context
        text_stream.check_ids(ids, self.config.vocab_size, 'text')
        if not len(ids):
            raise UserError('text: must not be empty')
        if len(ids) > context:
            raise UserError(f"text: must fit into the model's context of {context}, got {len(ids)}")
        length = round_up_to_bucket(len(ids), context)
        rows_BL = np.zeros((self._placement.row_shards, length), np.int32)
        rows_BL[:, : len(ids)] = ids
        z_BLV = self._forward(self._params, jax.device_put(rows_BL, self._placement.row_sharding))
        return np.asarray(z_BLV[0, : len(ids)])

    def log_probabilities(self, text: str) -> np.ndarray:
        """Return the log-probability of each token but the first, in nats. float32 [L - 1]."""
        ids = self._encode_prompt(text, 'text').ids
        log_p_LV = np.asarray(jax.nn.log_softmax(self.logits(text)))
        return log_p_LV[np.arange(len(ids) - 1), ids[1:]]

    def score(
        self, pairs: Sequence[ScoringPair], batch_size: int = scoring.DEFAULT_ROWS
    ) -> list[ContinuationScore]:
        """Compute the log-probabilities of continuations.

        Args:
          pairs: pairs of (context, continuation). Trailing spaces of a context are moved to the
            continuation; an empty context stands for the token that begins a text. Of a text that
            is longer than the model's context, only the end is used.
          batch_size: rows per batch; only affects speed.

        Returns:
          For each pair, log p of its continuation and whether greedy decoding generates it.

        Raises:
          UserError: a continuation is longer than the context, or a pair is invalid.

        Example:
          >>> pairs = [('The capital of France is', f' {city}') for city in ('Paris', 'Rome')]
          >>> paris, rome = model.score(pairs)
          >>> paris.log_p > rome.log_p
        """
        return self.scorer.score(pairs, batch_size)

    def perplexity(self, text: str, stride: int | None = None) -> Perplexity:
        """Measure the loss of a text of any length, in windows of the model's context.

        Args:
          text: the text.
          stride: number of tokens that a window scores; each is scored after at least context -
            stride others, where there are that many. None: the context, which is the fastest.

        Raises:
          UserError: the text has no tokens, or the stride is longer than the context.

        Example:
          >>> perplexity = model.perplexity(open('book.txt').read())
          >>> perplexity.token_perplexity, perplexity.bits_per_byte
        """
        return self.scorer.perplexity(text, stride)

    @functools.cached_property
    def _prompt_tokenizer(self) -> Tokenizer:
        """The tokenizer that reads the names of special tokens as these tokens."""
        return encode_special_tokens(self.tokenizer)

    def _encode_prompt(
        self, text: Any, name: str, *, special_tokens: bool = True
    ) -> TokenizedPrompt:
        check_text(text, name)
        try:
            tokenizer = self._prompt_tokenizer if special_tokens else self.tokenizer
            ids = np.asarray(tokenizer.encode(text), np.int32)
        except UserError as error:
            raise UserError(f'{name}: {error}') from None
        prefix_ids = np.array(self.pretrained.prefix_ids, np.int32)
        return TokenizedPrompt(text, np.concatenate([prefix_ids, ids]))

    def _compute_logits(self, params: Any, tokens_BL: jax.Array) -> jax.Array:
        model = GPT(self.config, self._placement.policy, train=False)
        output: Any = model.apply({'params': params}, tokens_BL)
        z_BLV = losses.compute_decode_logits(output.x_BLD, output.w_VD, self.config)
        return z_BLV[..., : self.config.vocab_size]
