"""Adapter for lm-evaluation-harness: its three request types, answered in batches."""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from lm_eval.api.model import LM

import gpt_jax
from gpt_jax.core import model_counts
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import Progress
from gpt_jax.data.tokenizer import BYTES_CONTENT
from gpt_jax.inference import options, scoring
from gpt_jax.inference.batching import TokenizedPrompt
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.inference.options import SAMPLING_OPTIONS, GenerationOptions
from gpt_jax.inference.pretrained import Pretrained
from gpt_jax.inference.text_scoring import make_continuation_requests, make_rolling_requests
from gpt_jax.tasks import chat_template as chat_template_module
from gpt_jax.tasks.chat_template import ChatTemplate

DEFAULT_NEW_TOKENS = 256  # if a task gives no limit; at most half of the context
# Names of the limit on new tokens in lm_eval's tasks; the first that is given counts.
LENGTH_OPTIONS = ('max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens')
LOAD_ARGUMENTS = ('step', 'weight_dtype', 'draft', 'data', 'fsdp', 'tensor')


class LmEvalTokenizer(NamedTuple):
    """Tokenization as in lm_eval with transformers: special tokens in a text are recognized.

    Attributes:
      inner: Tokenizer of the tokenizers library; None: a byte tokenizer, whose special token has
        no text.
      pretrained: the model.
      first_id: the id that precedes a text without a context; None: none does.
      first_text: the text of `first_id`; '': none.
      end_text: text of the token that ends a text.
      chat: chat template, or None.
    """

    inner: Any
    pretrained: Pretrained
    first_id: int | None
    first_text: str
    end_text: str
    chat: ChatTemplate | None

    @property
    def first_ids(self) -> list[int]:
        return [] if self.first_id is None else [self.first_id]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts without a prefix."""
        if self.inner is None:
            encoded = self.pretrained.tokenizer.encode_batch(list(texts))
            return [np.asarray(ids, np.int32) for ids in encoded]
        encodings = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode_with_prefix(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts with the tokenizer's prefix, unless a text already begins with it."""
        prefix = np.array(self.pretrained.prefix_ids, np.int32)
        prefixed = [bool(self.first_text) and text.startswith(self.first_text) for text in texts]
        pairs = zip(prefixed, self.encode(texts), strict=True)
        return [ids if has_prefix else np.concatenate([prefix, ids]) for has_prefix, ids in pairs]

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids without special tokens."""
        if self.inner is None:
            return self.pretrained.tokenizer.decode(list(ids))
        return str(self.inner.decode(list(ids), skip_special_tokens=True))


def make_tokenizer(pretrained: Pretrained, first_id: int | None = None) -> LmEvalTokenizer:
    """Make the tokenizer of a model from its own files.

    Args:
      first_id: the id that precedes a text without a context; None: from the files.

    Raises:
      UserError: the tokenizer lacks this id, or its files are damaged.
    """
    model_tokenizer = pretrained.tokenizer
    vocab_size = min(model_tokenizer.vocab_size, pretrained.model_config.vocab_size)
    if first_id is not None and not 0 <= first_id < vocab_size:
        raise UserError(
            f'prefix_token_id: must be below {vocab_size}, the vocabulary size, got {first_id}'
        )
    if model_tokenizer.content == BYTES_CONTENT:
        first_id = model_tokenizer.end_of_document if first_id is None else first_id
        return LmEvalTokenizer(None, pretrained, first_id, '', '', None)
    import tokenizers

    inner = tokenizers.Tokenizer.from_str(model_tokenizer.content.decode('utf-8'))
    inner.no_truncation()
    inner.no_padding()
    files, where = pretrained.template_files, pretrained.tokenizer_spec
    special_tokens = chat_template_module.parse_special_tokens(files, where)
    end = model_tokenizer.end_of_document
    end_text = (None if end is None else inner.id_to_token(end)) or ''
    if first_id is None:
        names = [name for name in ('bos_token', 'eos_token') if name in special_tokens]
        ids = [inner.token_to_id(special_tokens[name]) for name in names]
        candidates = (*ids, *pretrained.prefix_ids[-1:], end)
        first_id = next((id_ for id_ in candidates if id_ is not None and id_ < vocab_size), None)
    first_text = '' if first_id is None else inner.decode([first_id], skip_special_tokens=False)
    return LmEvalTokenizer(
        inner=inner,
        pretrained=pretrained,
        first_id=first_id,
        first_text=first_text,
        end_text=special_tokens.get('eos_token', end_text),
        chat=chat_template_module.parse_chat_template(files, where),
    )


class LmEvalModel(LM):
    """An lm_eval model whose requests are answered by a LanguageModel.

    Args:
      pretrained: argument or result of `gpt_jax.load`.
      batch_size: rows scored, or texts generated, at once; only affects speed. 'auto': 16.
      max_length: maximum tokens of a text; None: the model's context.
      prefix_token_id: the id that precedes a text without a context; None: from the tokenizer's
        files.
      device, max_batch_size: arguments of lm_eval; ignored.
      load_arguments: arguments of `gpt_jax.load`: step, weight_dtype, draft, and data, fsdp, tensor
        for the devices.

    Raises:
      UserError: an unknown or invalid argument, or no such model.
    """

    def __init__(
        self,
        pretrained: str | os.PathLike[str] | LanguageModel = '',
        batch_size: int | str | None = None,
        max_length: int | None = None,
        prefix_token_id: int | None = None,
        device: Any = None,
        max_batch_size: Any = None,
        **load_arguments: Any,
    ):
        super().__init__()
        del device, max_batch_size
        for name in load_arguments:
            if name not in LOAD_ARGUMENTS:
                raise UserError(
                    f'model_args: {name}: no such argument; must be one of '
                    f'{", ".join(LOAD_ARGUMENTS)}'
                )
        self._name = pretrained if isinstance(pretrained, str) else type(pretrained).__name__
        if isinstance(pretrained, LanguageModel):
            self.model = pretrained
        else:
            log = lambda line: print(line, file=sys.stderr)
            self.model = gpt_jax.load(pretrained, log=log, **load_arguments)
        if batch_size is None or str(batch_size).startswith('auto'):
            self.rows = scoring.DEFAULT_ROWS
        else:
            self.rows = int(batch_size)
        context = self.model.config.context
        self.max_length = context if max_length is None else max_length
        if not isinstance(self.max_length, int) or not 0 < self.max_length <= context:
            raise UserError(
                f"max_length: must be an integer in [1, {context}], the model's context, "
                f'got {max_length!r}'
            )
        self.text_tokenizer = make_tokenizer(self.model.pretrained, prefix_token_id)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: Any = None
    ) -> 'LmEvalModel':
        """Make the model; lm_eval calls this.

        The command's default batch size is 1, which would be needlessly slow, so 1 counts as not
        given. A batch size among the model's arguments takes precedence.
        """
        extra = {
            name: value for name, value in (additional_config or {}).items() if value is not None
        }
        if extra.get('batch_size') in (1, '1'):
            del extra['batch_size']
        return cls(**(extra | arg_dict))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Any = None
    ) -> 'LmEvalModel':
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return (log p in nats, whether greedy decoding generates it) of each continuation.

        Args:
          requests: requests with the arguments (context, continuation).
        """
        del disable_tqdm
        own = self.text_tokenizer
        pairs = [request.args for request in requests]
        scoring_requests = make_continuation_requests(
            pairs, own.encode_with_prefix, own.encode, own.first_id
        )
        scores = self.model.scorer.score(scoring_requests, self.rows, self.max_length)
        results = [(score.log_p, score.greedy) for score in scores]
        return self._add_to_cache('loglikelihood', pairs, results)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return log p of each whole text, computed in windows of the context length.

        Args:
          requests: requests with the argument (text,).
        """
        del disable_tqdm
        texts = [request.args[0] for request in requests]
        windows_by_text = [
            make_rolling_requests(
                [*self.text_tokenizer.first_ids, *ids], self.max_length, self.max_length
            )
            for ids in self.text_tokenizer.encode_with_prefix(texts)
        ]
        windows = [window for windows in windows_by_text for window in windows]
        scores = iter(self.model.scorer.score(windows, self.rows, self.max_length))
        results = [math.fsum(next(scores).log_p for _ in windows) for windows in windows_by_text]
        return self._add_to_cache('loglikelihood_rolling', [(text,) for text in texts], results)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the continuation of each context, up to its first stop string.

        Args:
          requests: requests with the arguments (context, generation options).
        """
        del disable_tqdm
        # Requests with equal options are generated together.
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            key = json.dumps(request.args[1], sort_keys=True, default=str)
            groups.setdefault(key, []).append(index)
        texts: dict[int, str] = {}
        progress = Progress(sys.stderr, trial=None, name='generating', steps=len(requests))
        for indices in groups.values():
            contexts = [requests[index].args[0] for index in indices]
            for number, text in self._generate(contexts, requests[indices[0]].args[1]):
                texts[indices[number]] = text
                progress.note(f'text {len(texts)}/{len(requests)}')
        progress.close()
        results = [texts[index] for index in range(len(requests))]
        arguments = [request.args for request in requests]
        return self._add_to_cache('generate_until', arguments, results)

    def _generate(
        self, contexts: Sequence[str], lm_eval_options: Mapping[str, Any]
    ) -> Iterator[tuple[int, str]]:
        """Yield (index, text) as texts are finished; texts with longer prompts come first."""
        generation_options, stops = self._make_options(lm_eval_options)
        max_prompt = self.max_length - generation_options.max_new_tokens
        if max_prompt < 1:
            raise UserError(
                f'max_gen_toks: must be below {self.max_length}, the context, to leave room for a '
                f'prompt, got {generation_options.max_new_tokens}; '
                'add --gen_kwargs max_gen_toks=NUMBER'
            )
        first_ids = np.array(self.text_tokenizer.first_ids, np.int32)
        encoded = self.text_tokenizer.encode_with_prefix(contexts)
        prompts = [
            TokenizedPrompt(text, ids[-max_prompt:] if len(ids) else first_ids)
            for text, ids in zip(contexts, encoded, strict=True)
        ]
        # Prompts of similar length share a batch.
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].ids))
        ordered = [prompts[index] for index in order]
        for chunk in self.model.stream_chunks(ordered, generation_options):
            if chunk.result is not None:
                text = self.text_tokenizer.decode(chunk.result.tokens)
                for stop in stops:
                    text = text.split(stop)[0]
                yield order[chunk.number], text

    def _make_options(
        self, lm_eval_options: Mapping[str, Any]
    ) -> tuple[GenerationOptions, list[str]]:
        """Return (generation options, stop strings).

        Without `do_sample`, sampling is on if the temperature is above 0.
        """
        remaining = dict(lm_eval_options)
        until = remaining.pop('until', None)
        until = [until] if isinstance(until, str) else until or []
        stops = [stop for stop in [*until, self.text_tokenizer.end_text] if stop]
        limits = [remaining.pop(name) for name in LENGTH_OPTIONS if remaining.get(name) is not None]
        default_limit = min(DEFAULT_NEW_TOKENS, self.max_length // 2)
        do_sample = remaining.pop('do_sample', None)
        if do_sample is None:
            do_sample = float(remaining.get('temperature') or 0) > 0
        if not do_sample:  # tasks may still give a temperature or top_p
            remaining = {k: value for k, value in remaining.items() if k not in SAMPLING_OPTIONS}
        remaining |= {
            'do_sample': bool(do_sample),
            'max_new_tokens': int(limits[0]) if limits else default_limit,
            'batch_size': self.rows,
        }
        if int(remaining.get('num_beams', 1)) <= 1:  # beam search ends only at end ids
            remaining['stop'] = tuple(stops)
        option_values = {name: value for name, value in remaining.items() if value is not None}
        return options.make_options(option_values), stops

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return the text of a dialogue, to be continued by an answer.

        If the template rejects system turns, they are left out, as in lm_eval.

        Args:
          add_generation_prompt: whether to start an answer; otherwise the last turn is left open,
            to be continued.
        """
        template, turns = self._find_chat_template(), [dict(turn) for turn in chat_history]

        def render(turns: list[dict[str, str]]) -> str:
            if add_generation_prompt:
                return template.render(turns, True)
            return chat_template_module.render_open_turn(template, turns)

        try:
            return render(turns)
        except UserError:
            return render([turn for turn in turns if turn['role'] != 'system'])

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the template itself, for lm_eval's records."""
        return self._find_chat_template().template if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """The name by which lm_eval distinguishes cached prompts."""
        return f'{self._name.replace("/", "__")}__{self.model.tokenizer.fingerprint[:16]}'

    def get_model_info(self) -> dict[str, Any]:
        """Return the model's size and its tokenizer's fingerprint, for lm_eval's records."""
        size = model_counts.parameters(self.model.config)['total']
        return {'model_num_parameters': size, 'model_tokenizer': self.model.tokenizer.fingerprint}

    def _find_chat_template(self) -> ChatTemplate:
        if self.text_tokenizer.chat is None:
            raise UserError(
                f'{self._name}: the tokenizer has no chat template; remove --apply_chat_template'
            )
        return self.text_tokenizer.chat

    def _add_to_cache(self, kind: str, arguments: Sequence[Any], results: list[Any]) -> list[Any]:
        """Add results to lm_eval's cache (--use_cache) and return them."""
        for request_arguments, result in zip(arguments, results, strict=True):
            self.cache_hook.add_partial(kind, request_arguments, result)
        return results
