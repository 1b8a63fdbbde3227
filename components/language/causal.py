"""The language model part, for any Hugging Face causal language model."""

import inspect
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, Cache

from components.attention_kernels import AttentionChoice
from components.interfaces import IGNORED_LABEL, AnswerLoss, DecodingSettings, TextInputs, VisualTokens
from components.language.cached_language_model import CachedLanguageModel
from components.language.cached_network import CallInputs
from components.language.chat import ChatFormat
from components.language.chat_template import ChatSettings
from components.language.kv_cache import CacheFactory, dynamic_cache
from components.language.model_loading import LoraSettings, add_adapters, build_model, end_of_sequence_ids
from components.language.packing import is_flash, pack_rows, refuse_mixed_conversations, refuse_unpackable
from components.language.probe import UNSUPPORTED, embeddings_problem, evaluation_mode, unused_parameters
from components.language.splice import SplicedInputs, splice
from components.language.text_limits import TextLimits, context_length
from components.language.whole_rows import row_arguments
from components.sharding import hand_to_sharding, is_sharded


class HuggingFaceCausalLM(CachedLanguageModel):
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

    Attributes:
        make_cache: Makes an empty cache from the model's configuration. Set it to store keys and values differently.

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
        self.limits = TextLimits(path, tokenizer, int(embeddings.num_embeddings), context_length(model.config))
        self.chat = ChatFormat(tokenizer, end_of_sequence_ids(self.model), chat)
        self.make_cache: CacheFactory = dynamic_cache
        arguments = inspect.signature(model.forward).parameters
        self._cache_argument = next((name for name in ("past_key_values", "cache_params") if name in arguments), None)
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
        hand_to_sharding(self.model, weights_dtype)
        self.may_run_again = not gradient_checkpointing or self._sharding is None or self._sharding.nested_checkpoints

    def word_ids(self, words: str) -> list[int]:
        """Token ids of words inside a prompt; see ``LanguageModel.word_ids``."""
        ids: list[int] = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        return ids

    def _embed(self, input_ids: Tensor) -> Tensor:
        self.limits.check_ids(input_ids)
        table = self.model.get_input_embeddings()
        embedded: Tensor = table(input_ids.clamp(min=0).to(self._device, non_blocking=True))
        return embedded

    def _call(self, inputs: CallInputs) -> Tensor:
        if self._cache_argument is None:
            raise ValueError(f"{type(self.model).__name__} takes no transformers.Cache; choose another language model")
        # Mamba's layers have no keys: they take the mask of the new positions only.
        mask = inputs.mask[:, -inputs.embeddings.shape[1] :] if self._cache_argument == "cache_params" else inputs.mask
        logits: Tensor = self._logits_at(
            inputs.rows,
            inputs.columns,
            inputs_embeds=inputs.embeddings,
            attention_mask=mask.long(),
            position_ids=inputs.position_ids,
            use_cache=True,
            **{self._cache_argument: inputs.cache},
        ).logits
        return logits

    def _new_cache(self) -> Cache:
        return self.make_cache(self.model.config)

    def _embedding_weight(self) -> Tensor:
        # Not the attribute weight: ZeRO-3 gathers a weight whose attribute is read, and only this rank may be reading.
        weight: Tensor = next(self.model.get_input_embeddings().parameters())
        return weight

    def forward(self, visual: VisualTokens, text: TextInputs) -> AnswerLoss:
        """Compute the loss of the labelled tokens of every conversation.

        Args:
            visual: Visual tokens of the batch's videos, width ``dim``.
            text: The conversations. A label at a row's first position is ignored, because no token precedes it.

        Returns:
            Loss of every conversation; zeros that are connected to the graph where nothing is labelled.
        """
        inputs = splice(visual, text, self._embed(text.input_ids))
        self.limits.check_positions(inputs.mask.shape[1], inputs.mask, visual.mask.shape[1])
        scored = inputs.labels[:, 1:] != IGNORED_LABEL  # [C, T-1], whether the next token is scored
        rows, columns = scored.nonzero(as_tuple=True)
        if self.pack:
            logits, computed = self._packed_logits(inputs, rows, columns)
        else:
            logits = self._logits_at(rows, columns, **row_arguments(self.model, inputs)).logits
            computed = inputs.mask.numel()
        answers = inputs.labels[rows, columns + 1].to(logits.device, non_blocking=True)
        token_nll = functional.cross_entropy(logits.float(), answers, reduction="none")
        rows = rows.to(logits.device, non_blocking=True)
        nll = token_nll.new_zeros(scored.shape[0]).index_add(0, rows, token_nll)
        return AnswerLoss(nll, scored.sum(dim=1), inputs.mask.sum(), computed)

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

    def probe(self) -> list[str]:
        """Run the model on two tokens. Returns the problems that were found. Every rank must call it."""
        with torch.no_grad(), evaluation_mode(self.model):
            ids = self._two_ids()
            problem = embeddings_problem(self.model, ids, self._embed(ids)) or self._answering_problem(ids)
        return [] if problem is None else [problem]

    def _answering_problem(self, ids: Tensor) -> str | None:
        """Answer with two tokens. Returns the problem that was found."""
        try:
            state = self._read_first(self._embed(ids), [2])
            self._decode(state, DecodingSettings(max_new_tokens=2), None, reads_all=True)
        except UNSUPPORTED as error:
            return f"{type(self.model).__name__} cannot answer ({type(error).__name__} while it generates: {error})"
        return None

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
