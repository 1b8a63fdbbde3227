"""The language model part, for any Hugging Face causal language model."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig

from components.attention_kernels import AttentionChoice
from components.interfaces import IGNORED_LABEL, AnswerLoss, LanguageModel, TextInputs, VisualTokens
from components.language.chat import ChatFormat
from components.language.chat_template import ChatSettings
from components.language.model_loading import LoraSettings, add_adapters, build_model, end_of_sequence_ids
from components.language.packing import is_flash, pack_rows, refuse_mixed_conversations, refuse_unpackable
from components.language.probe import embeddings_problem, evaluation_mode, generation_problem, unused_parameters
from components.language.splice import SplicedInputs, splice
from components.language.text_limits import TextLimits
from components.question_text import without_answers
from components.sharding import compute_device, hand_to_sharding, is_sharded


class HuggingFaceCausalLM(LanguageModel):
    """A causal language model and its tokenizer from a Hugging Face folder or hub name.

    Visual tokens replace the placeholders in the embedded text; the model itself is unchanged. The output layer
    computes logits only where the next token is labelled. All weights train unless ``freeze`` or ``lora`` is set;
    gradients always reach the visual tokens.

    Args:
        path: Folder or hub name with ``config.json``, tokenizer files (chat template included) and weights. Of a
            composite model (Gemma-3 4B, LLaVA) only the language model is used.
        weights: ``pretrained`` loads the weights, ``random`` initialises the model of ``config.json`` at random.
        dtype: Dtype of the weights; ``auto`` is the one that the configuration names.
        attn: Attention kernel, see ``resolve_attention``.
        lora: Train adapters instead of the weights.
        freeze: Train none of the language model's weights.
        gradient_checkpointing: Recompute every layer in the backward pass instead of storing its activations.
        gguf_file: Name of a GGUF file in ``path`` to read configuration, tokenizer and weights from.
        pack: Put several conversations into one row instead of padding each to the longest: the same losses with fewer
            positions computed. See ``components.language.packing``.
        chat: Settings of the chat text besides the template.

    Raises:
        ValueError: The arguments contradict each other, the model cannot be packed or does not take embeddings, weights
            are missing, the tokenizer belongs to another model, or its chat template is missing or ends no turn.
    """

    def __init__(
        self,
        path: str,
        *,
        weights: Literal["pretrained", "random"] = "pretrained",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
        attn: AttentionChoice = "auto",
        lora: LoraSettings | None = None,
        freeze: bool = False,
        gradient_checkpointing: bool = False,
        gguf_file: str | None = None,
        pack: bool = False,
        chat: ChatSettings = ChatSettings(),  # noqa: B008  frozen
    ) -> None:
        super().__init__()
        if lora is not None and freeze:
            raise ValueError("freeze=True and lora are both set; LoRA freezes the weights itself, so drop freeze")
        source = {} if gguf_file is None else {"gguf_file": gguf_file}
        # from_pretrained leaves evaluation mode on, in which gradient checkpointing does nothing.
        model, weights_dtype = build_model(path, source, weights, dtype, attn)
        self.model = model.train()
        self.tokenizer = tokenizer = AutoTokenizer.from_pretrained(path, **source)
        embeddings = self.model.get_input_embeddings()
        self.limits = TextLimits(self.model, tokenizer, path)
        self.chat = ChatFormat(tokenizer, end_of_sequence_ids(self.model), chat)
        # Replaces the settings of a generation_config.json, so that decoding is greedy, without penalties.
        self.model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=self.chat.stop_ids, pad_token_id=self.chat.pad_id
        )
        self.dim = int(embeddings.embedding_dim)
        if pack:
            refuse_unpackable(self.model)
        self.pack = pack
        self._packing_checked = False
        if freeze:
            self.model.requires_grad_(False)
        if lora is not None:
            add_adapters(self.model, lora)
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._sharding = hand_to_sharding(self.model, weights_dtype)
        self.may_run_again = not gradient_checkpointing or self._sharding is None or self._sharding.nested_checkpoints

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embed ids ``[C, K]``. The placeholder's negative id gets the embedding of id 0, which the splice replaces."""
        return self._embed(input_ids)

    def word_ids(self, words: str) -> list[int]:
        """Token ids of words inside a prompt; see ``LanguageModel.word_ids``."""
        ids: list[int] = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        return ids

    def _embed(self, input_ids: Tensor) -> Tensor:
        self.limits.check_ids(input_ids)
        table = self.model.get_input_embeddings()
        embedded: Tensor = table(input_ids.clamp(min=0).to(self._device, non_blocking=True))
        return embedded

    @property
    def _device(self) -> torch.device:
        return compute_device(self.model.get_input_embeddings().weight)

    def prompts(self, questions: Sequence[str]) -> TextInputs:
        """Convert questions about the first video to prompts; see ``LanguageModel.prompts``.

        Raises:
            ValueError: The template drops or repeats the placeholder of the visual tokens.
        """
        rows = [torch.tensor(self.chat.prompt_ids(question)) for question in questions]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.chat.pad_id)
        mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
        return TextInputs(ids, mask, torch.full_like(ids, IGNORED_LABEL), ids.new_zeros(len(rows), 1))

    def forward(self, visual: VisualTokens, text: TextInputs) -> AnswerLoss:
        """Compute the loss of the labelled tokens of every conversation.

        Args:
            visual: Visual tokens of the batch's videos, width ``dim``.
            text: The conversations. A label at a row's first position is ignored, because no token precedes it.

        Returns:
            Loss of every conversation; zeros that are connected to the graph where nothing is labelled.
        """
        inputs = self._splice(visual, text)
        scored = inputs.labels[:, 1:] != IGNORED_LABEL  # [C, T-1], whether the next token is scored
        rows, columns = scored.nonzero(as_tuple=True)
        if self.pack:
            logits, computed = self._packed_logits(inputs, rows, columns)
        else:
            logits = self._logits_at(
                rows,
                columns,
                inputs_embeds=inputs.embeddings,
                attention_mask=inputs.mask.long().to(self._device, non_blocking=True),
                position_ids=inputs.position_ids.to(self._device, non_blocking=True),
                use_cache=False,
            ).logits
            computed = inputs.mask.numel()
        answers = inputs.labels[rows, columns + 1].to(logits.device, non_blocking=True)
        token_nll = functional.cross_entropy(logits.float(), answers, reduction="none")
        rows = rows.to(logits.device, non_blocking=True)
        nll = token_nll.new_zeros(scored.shape[0]).index_add(0, rows, token_nll)
        return AnswerLoss(nll, scored.sum(dim=1), inputs.mask.sum(), computed)

    @torch.no_grad()
    def generate(self, visual: VisualTokens, text: TextInputs, max_new_tokens: int) -> list[str]:
        """Generate answers by greedy decoding. The prompt is the text before a conversation's first labelled token.

        An answer ends at the token with which the chat template ends a turn, at an end-of-sequence token of tokenizer
        or generation config, or after ``max_new_tokens``.

        Args:
            visual: Visual tokens of the batch's videos.
            text: The conversations.
            max_new_tokens: Length limit of an answer.

        Returns:
            One answer per conversation, without special tokens and surrounding white space.

        Raises:
            ValueError: A prompt is shorter than two tokens, or text and videos are out of step.
        """
        inputs = self._splice(visual, without_answers(text), pad_left=True, new_tokens=max_new_tokens)
        with evaluation_mode(self.model):
            generated = self.model.generate(
                inputs_embeds=inputs.embeddings,
                attention_mask=inputs.mask.long().to(self._device),
                max_new_tokens=max_new_tokens,
                synced_gpus=self._sharding is not None,  # all ranks run until the longest answer has ended
            )
        return [self.chat.decode(ids) for ids in generated.tolist()]

    @torch.no_grad()
    def score_options(self, visual: VisualTokens, text: TextInputs, options: Sequence[Sequence[str]]) -> list[Tensor]:
        """Mean log likelihood per token of every answer option, including the token that ends the turn.

        The keys and values of a prompt are computed once for all of its options.

        Args:
            visual: Visual tokens of the batch's videos.
            text: The conversations; their own answers are ignored.
            options: Answer options of every conversation: C lists with at least one option each.

        Returns:
            One float32 tensor ``[number of options]`` per conversation, values at most 0.

        Raises:
            ValueError: A conversation has no options, a prompt is shorter than two tokens, or text and videos are
                out of step.
        """
        counts = [len(each) for each in options]
        if len(counts) != text.input_ids.shape[0] or 0 in counts:
            raise ValueError(
                f"{text.input_ids.shape[0]} conversations with {counts} options; every one needs at least one option"
            )
        prompts = without_answers(text)
        scores: list[Tensor] = []
        rounds = len(counts) if self._sharding is None else self._sharding.largest_of_all_ranks(len(counts))
        with evaluation_mode(self.model):
            for row in (min(number, len(counts) - 1) for number in range(rounds)):
                answers = [self.chat.answer_ids(option) for option in options[row]]
                prompt = self._splice(
                    visual.of_conversation(row),
                    TextInputs(*(field[row : row + 1] for field in prompts)),
                    new_tokens=max(map(len, answers)),
                    first=row,
                )
                scores.append(self._score_answers(prompt.embeddings, answers))
        return scores[: len(counts)]  # drops calls that only matched the number of calls on other ranks

    def _score_answers(self, prompt: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
        """Mean log likelihood of each answer's ids after a prompt ``[1, T, E]``."""
        answer_ids = [torch.tensor(answer, device=prompt.device) for answer in answers]
        ids = nn.utils.rnn.pad_sequence(answer_ids, batch_first=True, padding_value=self.chat.pad_id)  # [options, A]
        lengths = torch.tensor([len(each) for each in answer_ids], device=prompt.device)
        # The prompt's last token is part of the second call, which then predicts all answer tokens.
        none = torch.empty(0, dtype=torch.long, device=prompt.device)
        cache = self._logits_at(none, none, inputs_embeds=prompt[:, :-1], use_cache=True).past_key_values
        cache.reorder_cache(ids.new_zeros(len(answers)))  # one copy of the prompt's keys and values per answer
        last = prompt[:, -1:].expand(len(answers), -1, -1)
        embeddings = torch.cat([last, self._embed(ids[:, :-1])], dim=1)  # [options, A, E]
        places = torch.arange(ids.shape[1], device=ids.device)
        real = places < lengths[:, None]  # [options, A]
        rows, columns = real.nonzero(as_tuple=True)
        logits = self._logits_at(
            rows,
            columns,
            inputs_embeds=embeddings,
            attention_mask=torch.cat([real.new_ones(len(answers), prompt.shape[1] - 1), real], dim=1).long(),
            position_ids=(prompt.shape[1] - 1 + places).expand(len(answers), -1),
            past_key_values=cache,
            use_cache=True,
        ).logits
        log_likelihood = -functional.cross_entropy(logits.float(), ids[rows, columns], reduction="none")
        return log_likelihood.new_zeros(len(answers)).index_add(0, rows, log_likelihood) / lengths

    def _packed_logits(self, inputs: SplicedInputs, rows: Tensor, columns: Tensor) -> tuple[Tensor, int]:
        """Logits at ``n`` positions of packed rows, ``[n, vocabulary]``, and the number of computed positions."""
        packed = pack_rows(inputs, single_row=is_flash(self.model))
        shared = packed.embeddings.shape[0] < packed.row.shape[0]
        check = shared and not self._packing_checked
        with refuse_mixed_conversations(self.model, packed) if check else nullcontext():
            output = self._logits_at(
                packed.row[rows], packed.start[rows] + columns, **packed.arguments(), use_cache=False
            )
        self._packing_checked |= shared
        return output.logits, packed.position_ids.numel()

    def _splice(
        self, visual: VisualTokens, text: TextInputs, *, pad_left: bool = False, new_tokens: int = 0, first: int = 0
    ) -> SplicedInputs:
        """Insert visual tokens into the text; ``first`` is the index of its first conversation in the batch."""
        inputs = splice(visual, text, self._embed(text.input_ids), pad_left=pad_left)
        self.limits.check_positions(inputs.mask.shape[1], inputs.mask, visual.mask.shape[1], new_tokens, first)
        return inputs

    def probe(self) -> list[str]:
        """Run the model on two tokens. Returns the problems that were found. Every rank must call it."""
        with torch.no_grad(), evaluation_mode(self.model):
            ids = self._two_ids()
            problem = embeddings_problem(self.model, ids, self._embed(ids))
            problem = problem or generation_problem(self.model, self._embed(ids), self._sharding is not None)
        return [] if problem is None else [problem]

    def unused_parameters(self) -> list[str]:
        """Names of trainable parameters that no answer depends on; empty where weights are sharded (not checked)."""
        if is_sharded(self.model):
            return []
        with evaluation_mode(self.model):
            return unused_parameters(self.model, self._embed(self._two_ids()))

    def _two_ids(self) -> Tensor:
        """Two valid ids, ``[1, 2]``."""
        return torch.tensor([[self.chat.end_of_turn_id] * 2], device=self._device)

    def _logits_at(self, rows: Tensor, columns: Tensor, **inputs: Any) -> Any:
        """Run the model and compute logits at ``n`` positions only.

        A hook selects the hidden states that enter the output layer. The model's own forward runs, because some models
        do more around that layer (Gemma's soft cap, scaling in Granite and Cohere) and strategies attach hooks to it.

        Args:
            rows: Row of each position, ``[n]``.
            columns: Column of each position, ``[n]``.
            **inputs: Arguments of the Hugging Face model.

        Returns:
            The Hugging Face output, ``logits`` reduced to ``[n, vocabulary]``.
        """

        def choose(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            at = torch.stack([rows, columns]).to(args[0].device, non_blocking=True)
            return (args[0][at[0], at[1]].unsqueeze(0),)

        hook = self.model.get_output_embeddings().register_forward_pre_hook(choose)
        try:
            output = self.model(**inputs, return_dict=True)
        finally:
            hook.remove()
        output.logits = output.logits.squeeze(0)
        return output
