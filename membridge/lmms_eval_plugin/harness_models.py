"""The models that lmms-eval opens. lmms-eval must be installed; nothing else of this project imports this file."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from command_errors import explain, report
from membridge.answering_model import load
from membridge.lmms_eval_plugin.harness_answers import HarnessAnswer, HarnessAnswers, OnError
from membridge.lmms_eval_plugin.harness_prompts import (
    HarnessPrompt,
    decoding_of,
    prompt_of_context,
    prompt_of_messages,
)

_log = logging.getLogger(__name__)
_PADDING = "__padding_only__"  # of requests that only make processes equally long; nobody reads the answers


class _OpenedModel(lmms):
    """What both models share: opening, and answering prompts.

    Args:
        pretrained: A model folder, or its name on the model hub.
        batch_size: Questions about the same media that are answered at the same time.
        device: Device of the model; by default the GPU of this process, or the CPU where there is none.
        dtype: Dtype of the weights, such as ``bfloat16``; by default as they were written.
        on_error: See ``HarnessAnswers``.
        others: Other names of ``--model_args`` are refused.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: Any = None,
        on_error: OnError = "stop",
        **others: Any,
    ) -> None:
        super().__init__()
        self._rank, self._world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        with _ending_on_error():
            if others:
                raise ValueError(
                    f"--model_args has {', '.join(others)}; expected pretrained, device, dtype, batch_size, on_error. "
                    "Frames are read as the model was trained to, so there is no option for them"
                )
            if not str(batch_size).isdigit():
                raise ValueError(f"batch_size is {batch_size!r}; expected a number")
            self.device = torch.device(device or _own_device())
            self.model = load(str(pretrained), device=self.device, dtype=dtype)
            self.answers = HarnessAnswers(self.model, int(batch_size), on_error, _log.warning)

    def _document(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _with_settings(self, prompt: HarnessPrompt, given: Mapping[str, Any], seed: int = 0) -> HarnessPrompt:
        until = given.get("until") or ()
        return prompt._replace(
            settings=decoding_of(given, self.model.training_facts.max_new_tokens),
            seed=seed,
            until=(until,) if isinstance(until, str) else tuple(until),
        )

    def _answer_all(
        self, requests: Sequence[Instance], prompt_of: Callable[[int, Instance], HarnessPrompt]
    ) -> list[HarnessAnswer]:
        """Answer requests, in their order."""
        answers = [HarnessAnswer()] * len(requests)
        prompts = (
            (index, prompt_of(index, request))
            for index, request in enumerate(requests)
            if not request.metadata.get(_PADDING)
        )
        with _ending_on_error(), self._progress(len(requests)) as progress:
            for index, answer in self.answers.answer(prompts):
                answers[index] = answer
                progress.update()
        return answers

    def _generated(
        self, requests: Sequence[Instance], prompt_of: Callable[[Instance, int], HarnessPrompt]
    ) -> list[GenerationResult]:
        """Generate answers. The same request, asked again, gets another seed."""
        times: Counter[int] = Counter()

        def numbered(_: int, request: Instance) -> HarnessPrompt:
            times[id(request)] += 1
            return prompt_of(request, times[id(request)] - 1)

        answers = self._answer_all(requests, numbered)
        return [GenerationResult(each.text, TokenCounts(each.prompt_tokens, each.new_tokens)) for each in answers]

    def _in_rounds(
        self,
        requests: Sequence[Instance],
        first: Callable[[Instance], HarnessPrompt],
        following: Callable[[Instance, dict[str, Any]], tuple[HarnessPrompt | None, Any, Any]],
    ) -> list[list[str]]:
        """Answer requests whose next prompt depends on the answers before.

        Args:
            requests: The requests.
            first: The first prompt of a request.
            following: From the request and the answers so far: the next prompt, or None after the last; the answers as
                the task wants them from then on, or None; and what the task remembers.

        Returns:
            The answers to all prompts of every request.
        """
        found: list[list[str]] = []
        with _ending_on_error(), self._progress(len(requests)) as progress:
            for request in requests:
                outputs: list[str] = []
                remembered = None
                prompt: HarnessPrompt | None = None if request.metadata.get(_PADDING) else first(request)
                while prompt is not None:
                    outputs.append(self.answers.answer_one(prompt).text)
                    known = {"round_idx": len(outputs), "previous_output": list(outputs)}
                    prompt, changed, remembered = following(request, {**known, "previous_round_info": remembered})
                    outputs = outputs if changed is None else list(changed)
                found.append(outputs)
                progress.update()
        return found

    def _progress(self, total: int) -> Any:
        return tqdm(total=total, desc="membridge", unit="request", disable=None if self._rank == 0 else True)


class MembridgeModel(_OpenedModel):
    """Answers all tasks: by generated text, by the likelihood of choices, and in rounds."""

    is_simple = True

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Generate an answer to each request."""
        visuals = self._visuals_once()

        def prompt_of(request: Instance, seed: int) -> HarnessPrompt:
            context, given, doc_to_visual, *document = request.args
            return self._with_settings(prompt_of_context(context, visuals(doc_to_visual, *document)), given, seed)

        return self._generated(requests, prompt_of)

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Loss of each request's choice, and whether greedy decoding gives it.

        lmms-eval takes the choice with the lowest value, so it is a loss: the mean negative log likelihood per token.
        It is wrapped, because lmms-eval 0.7 to 0.7.3 makes a text of a plain pair.
        """
        visuals = self._visuals_once()

        def prompt_of(_: int, request: Instance) -> HarnessPrompt:
            context, target, *rest = request.args
            if not rest:  # the likelihood of a choice without its question
                return prompt_of_context(context, None)._replace(choice=str(target).strip())
            doc_to_visual, *document = rest
            if callable(target):
                target = target(self._document(*document))
            shown = visuals(doc_to_visual, *document)
            # The target begins with the space that separates it from the context where there is no chat template.
            return prompt_of_context(context, shown)._replace(choice=str(target).strip())

        answers = self._answer_all(requests, prompt_of)
        return [GenerationResult((each.loss, each.is_greedy)) for each in answers]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Generate an answer to each round of each request."""

        def first(request: Instance) -> HarnessPrompt:
            context, given, doc_to_visual, _, *document = request.args
            return self._with_settings(prompt_of_context(context, doc_to_visual(self._document(*document))), given)

        def following(request: Instance, known: dict[str, Any]) -> tuple[HarnessPrompt | None, Any, Any]:
            _, given, _, doc_to_text, *document = request.args
            shown, context, ends, outputs, remembered = doc_to_text(self._document(*document), **known)
            prompt = None if ends else self._with_settings(prompt_of_context(context, shown), given)
            return prompt, outputs, remembered

        return self._in_rounds(requests, first, following)

    def _visuals_once(self) -> Callable[..., Any]:
        """A function that gives the media of a document; those of the last one are not made again."""
        last: list[Any] = [None, None]

        def visuals(doc_to_visual: Any, doc_id: int, task: str, split: str) -> Any:
            if last[0] != (doc_id, task, split):
                shown = doc_to_visual(self._document(doc_id, task, split)) if callable(doc_to_visual) else None
                last[:] = (doc_id, task, split), shown
            return last[1]

        return visuals


class MembridgeChatModel(_OpenedModel):
    """Answers tasks that give messages, by generated text."""

    is_simple = False

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Generate an answer to each request."""

        def prompt_of(request: Instance, seed: int) -> HarnessPrompt:
            _, doc_to_messages, given, *document = request.args
            return self._with_settings(prompt_of_messages(doc_to_messages(self._document(*document))), given, seed)

        return self._generated(requests, prompt_of)

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Refused: lmms-eval asks for likelihoods without messages.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("likelihoods need the model without messages: --model membridge")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Generate an answer to each round of each request."""

        def first(request: Instance) -> HarnessPrompt:
            _, doc_to_messages, given, *document = request.args
            return self._with_settings(prompt_of_messages(doc_to_messages(self._document(*document))), given)

        def following(request: Instance, known: dict[str, Any]) -> tuple[HarnessPrompt | None, Any, Any]:
            _, doc_to_messages, given, *document = request.args
            messages, ends, outputs, remembered = doc_to_messages(self._document(*document), **known)
            prompt = None if ends else self._with_settings(prompt_of_messages(messages), given)
            return prompt, outputs, remembered

        return self._in_rounds(requests, first, following)


@contextmanager
def _ending_on_error() -> Iterator[None]:
    """End the process with a message and status 2 where an input is wrong; lmms-eval's own status would be 0.

    Raises:
        SystemExit: An input is wrong.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if explain(error) is None:  # a bug: lmms-eval prints its traceback
            raise
        raise SystemExit(report(error)) from error


def _own_device() -> str:
    """The GPU of this process, or the CPU."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    return f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
