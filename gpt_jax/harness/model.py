"""What does lm-evaluation-harness get from one of our models? Its three kinds of answers, many requests at once."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import LM

import gpt_jax
from gpt_jax.data.chat import Chat
from gpt_jax.errors import UserError
from gpt_jax.evaluate import pairs, rolling, scoring
from gpt_jax.generate import options
from gpt_jax.generate.batching import Prompt
from gpt_jax.generate.options import WARPS, Options
from gpt_jax.harness import words
from gpt_jax.language_model import LanguageModel
from gpt_jax.model import accounting
from gpt_jax.observe.progress import Progress

NEW_TOKENS = 256  # where a task says nothing, or half of the context
LIMITS = ('max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens')  # the first that is there


class Model(LM):
    """A model type of lm_eval, whose requests are answered by a LanguageModel.

    Args:
      pretrained: what `gpt_jax.load` takes, or what it gave.
      batch_size: rows that are read, or texts that are written, at once; it changes the speed alone. 'auto': 16.
      max_length: tokens of a text at most; None: the model's context.
      prefix_token_id: stands before a text that nothing stands before; None: as the tokenizer's files say.
      device, max_batch_size: lm_eval's, and without a meaning here.
      given: further arguments of `gpt_jax.load`: step, weights, draft, and data, fsdp, tensor for the devices.

    Raises:
      UserError: an argument that is none, or no such model.
    """

    def __init__(
        self, pretrained: str | os.PathLike[str] | LanguageModel = '', batch_size: int | str | None = None,
        max_length: int | None = None, prefix_token_id: int | None = None, device: Any = None,
        max_batch_size: Any = None, **given: Any,
    ):  # fmt: skip
        super().__init__()
        del device, max_batch_size
        known = ('step', 'weights', 'draft', 'data', 'fsdp', 'tensor')
        for name in given:
            if name not in known:
                raise UserError(f'model_args: {name}: no such argument; there are {", ".join(known)}')
        self._name = pretrained if isinstance(pretrained, str) else type(pretrained).__name__
        say = lambda line: print(line, file=sys.stderr)  # noqa: E731
        self.model = pretrained if isinstance(pretrained, LanguageModel) else gpt_jax.load(pretrained, say=say, **given)
        self.rows = scoring.ROWS if batch_size is None or str(batch_size).startswith('auto') else int(batch_size)
        self.max_length = self.model.config.context if max_length is None else max_length
        if not isinstance(self.max_length, int) or not 0 < self.max_length <= self.model.config.context:
            raise UserError(f"max_length: wants tokens up to the model's context of {self.model.config.context}")
        self.words = words.of(self.model.found, prefix_token_id)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: Any = None) -> 'Model':
        """What lm_eval calls. The command's batch size is 1 where none is said, which is no reason to be slow; and a
        batch size among the model's arguments counts before it."""
        further = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if further.get('batch_size') in (1, '1'):
            del further['batch_size']
        return cls(**(further | arg_dict))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Any = None) -> 'Model':
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation): log p in nats, and whether it is what greedy decoding writes."""
        del disable_tqdm
        made = pairs.requests([one.args for one in requests], self.words.whole, self.words.plain, self.words.first)
        found = [(one.log_p, one.greedy) for one in self.model.scorer.score(made, self.rows, self.max_length)]
        return self._remembered('loglikelihood', [one.args for one in requests], found)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of each text: log p of all of it, in windows of the context."""
        del disable_tqdm
        texts = [one.args[0] for one in requests]
        first = [] if self.words.first is None else [self.words.first]
        cut = [rolling.requests([*first, *ids], self.max_length, self.max_length) for ids in self.words.whole(texts)]
        scored = iter(self.model.scorer.score([one for part in cut for one in part], self.rows, self.max_length))
        found = [math.fsum(next(scored).log_p for _ in part) for part in cut]
        return self._remembered('loglikelihood_rolling', [(text,) for text in texts], found)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Of each (context, how to go on): the text that follows, up to the first of its stop strings."""
        del disable_tqdm
        alike: dict[str, list[int]] = {}
        for number, one in enumerate(requests):
            alike.setdefault(json.dumps(one.args[1], sort_keys=True, default=str), []).append(number)
        written: dict[int, str] = {}
        line = Progress(sys.stderr, trial=None, name='writing', steps=len(requests))
        for numbers in alike.values():
            for number, text in self._written([requests[n].args[0] for n in numbers], requests[numbers[0]].args[1]):
                written[numbers[number]] = text
                line.note(f'text {len(written)}/{len(requests)}')
        line.close()
        found = [written[number] for number in range(len(requests))]
        return self._remembered('generate_until', [one.args for one in requests], found)

    def _written(self, contexts: Sequence[str], how: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        """(number, text) as they are done, those of one length together."""
        chosen, stops = self._options(how)
        most = self.max_length - chosen.max_new_tokens
        if most < 1:
            raise UserError(
                f'max_gen_toks: {chosen.max_new_tokens} leave no room for a prompt in a context of {self.max_length}; '
                'add --gen_kwargs max_gen_toks=NUMBER'
            )
        first = [] if self.words.first is None else [self.words.first]
        prompts = [
            Prompt(text, ids[-most:] if len(ids) else np.array(first, np.int32))
            for text, ids in zip(contexts, self.words.whole(contexts), strict=True)
        ]
        order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n].ids))
        for update in self.model.write([prompts[n] for n in order], chosen):
            if update.done is not None:
                text = self.words.decode(update.done.tokens)
                for stop in stops:
                    text = text.split(stop)[0]
                yield order[update.number], text

    def _options(self, how: Mapping[str, Any]) -> tuple[Options, list[str]]:
        """Options of ours, and the strings that end a text. Without `do_sample` a temperature above 0 decides it."""
        given = dict(how)
        until = given.pop('until', None)
        stops = [stop for stop in [*([until] if isinstance(until, str) else until or []), self.words.end] if stop]
        limits = [given.pop(name) for name in LIMITS if given.get(name) is not None]
        new = int(limits[0]) if limits else min(NEW_TOKENS, self.max_length // 2)
        said = given.pop('do_sample', None)
        sampled = float(given.get('temperature') or 0) > 0 if said is None else bool(said)
        if not sampled:  # tasks name a temperature or a share all the same
            given = {name: value for name, value in given.items() if name not in WARPS}
        searched = int(given.get('num_beams', 1)) > 1  # which ends at ids alone
        given |= {'do_sample': sampled, 'max_new_tokens': new, 'batch_size': self.rows}
        given |= {} if searched else {'stop': tuple(stops)}
        return options.make({name: value for name, value in given.items() if value is not None}), stops

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The dialogue's text, open for an answer; or else open at the end of its last turn, which is to be gone on
        with. A template without a system's role is given the turns without it, as lm_eval does."""
        how, turns = self._chat(), [dict(turn) for turn in chat_history]
        try:
            text = how.render(turns, add_generation_prompt)
        except UserError:
            turns = [turn for turn in turns if turn['role'] != 'system']
            text = how.render(turns, add_generation_prompt)
        if add_generation_prompt:
            return text
        said = turns[-1]['content']
        begin = text.rindex(said.strip())
        kept = said.lstrip() if text[begin:].startswith(said.lstrip()) else said.strip()
        return text[: begin + len(kept)]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template itself, for lm_eval's records."""
        return self._chat().template if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval tells prompts apart by that it keeps."""
        return f'{self._name.replace("/", "__")}__{self.model.tokenizer.fingerprint[:16]}'

    def get_model_info(self) -> dict[str, Any]:
        """For lm_eval's records."""
        size = accounting.parameters(self.model.config)['total']
        return {'model_num_parameters': size, 'model_tokenizer': self.model.tokenizer.fingerprint}

    def _chat(self) -> Chat:
        if self.words.chat is None:
            raise UserError(f'{self._name}: its tokenizer has no chat template; leave --apply_chat_template out')
        return self.words.chat

    def _remembered(self, kind: str, asked: Sequence[Any], found: list[Any]) -> list[Any]:
        """The same answers, in lm_eval's cache too where --use_cache names one."""
        for arguments, answer in zip(asked, found, strict=True):
            self.cache_hook.add_partial(kind, arguments, answer)
        return found
