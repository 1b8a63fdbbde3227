"""A language model of any other kind needs an embedding and one call of its network; the rest is inherited."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, DynamicCache

from components.interfaces import IGNORED_LABEL, TEXT_ONLY, AnswerLoss, DecodingSettings, TextInputs, VisualTokens
from components.language.cached_language_model import CachedLanguageModel
from components.language.cached_network import CallInputs
from components.language.chat import ChatFormat
from components.language.splice import splice
from components.language.text_limits import TextLimitError, TextLimits
from tests.components.tiny_language import VOCABULARY, make_text, make_visual, row_of
from tests.fixtures_data import make_tiny_tokenizer

PROMPTS = [(0, "what colour ?", None), (0, "how many ?", None), (1, "?", None), (TEXT_ONLY, "say hello", None)]
OPTIONS = [["red", "blue circle at the end", ""]] * len(PROMPTS)
CONTEXT = 96


class WeightedMean(CachedLanguageModel):
    """Predicts the next token from a mean of all embeddings so far, in which later ones weigh more."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.dim = 8
        self.tokenizer = tokenizer
        self.table = nn.Embedding(VOCABULARY, self.dim)
        self.output = nn.Linear(self.dim, VOCABULARY)
        self.chat = ChatFormat(tokenizer)
        self.limits = TextLimits("weighted mean", tokenizer, VOCABULARY, CONTEXT)

    def _embed(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids.clamp(min=0))  # type: ignore[no-any-return]

    def _new_cache(self) -> DynamicCache:
        return DynamicCache()

    def _call(self, inputs: CallInputs) -> Tensor:
        new = inputs.embeddings[:, None]
        times = inputs.position_ids[:, None, :, None].float()
        read, positions = inputs.cache.update(new, times, 0)  # [B, 1, X + N, E], [B, 1, X + N, 1]
        mask, num_new = inputs.mask, new.shape[2]
        causal = torch.ones(num_new, mask.shape[1], dtype=torch.bool).tril(mask.shape[1] - num_new)
        scores = (0.1 * positions.squeeze(-1)).masked_fill(~(causal & mask[:, None]), -torch.inf)  # [B, N, X + N]
        mean = scores.softmax(dim=-1).nan_to_num() @ read[:, 0]
        return self.output(mean[inputs.rows, inputs.columns])  # type: ignore[no-any-return]

    def forward(self, visual: VisualTokens, text: TextInputs) -> AnswerLoss:
        inputs = splice(visual, text, self._embed(text.input_ids))
        rows, columns = (inputs.labels[:, 1:] != IGNORED_LABEL).nonzero(as_tuple=True)
        call = CallInputs(inputs.embeddings, inputs.mask, inputs.position_ids, self._new_cache(), rows, columns)
        nll = functional.cross_entropy(self._call(call), inputs.labels[rows, columns + 1], reduction="none")
        counts = rows.bincount(minlength=len(text.input_ids))
        return AnswerLoss(nll.new_zeros(len(counts)).index_add(0, rows, nll), counts)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WeightedMean:
    folder: Path = make_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    torch.manual_seed(0)
    return WeightedMean(AutoTokenizer.from_pretrained(folder)).eval()


def test_it_answers_in_a_batch_as_alone(model: WeightedMean) -> None:
    visual, text = make_visual((20, 7), width=model.dim), make_text(model, PROMPTS, padding=2)
    settings = DecodingSettings(8, temperature=1.0, seed=(1, 2, 3, 4))
    together = model.decode(model.prefill(visual, text), settings).token_ids
    for row, seed in enumerate((1, 2, 3, 4)):
        alone = model.prefill(visual, row_of(text, row))
        assert model.decode(alone, DecodingSettings(8, temperature=1.0, seed=seed)).token_ids == [together[row]]
    assert len({tuple(ids) for ids in together}) > 1


def test_it_scores_options_as_whole_conversations(model: WeightedMean) -> None:
    visual, text = make_visual((20, 7), width=model.dim), make_text(model, PROMPTS)
    scores = model.score_options(visual, text, OPTIONS)
    for (video, question, _), options, row in zip(PROMPTS, OPTIONS, scores, strict=True):
        loss = model(visual, make_text(model, [(video, question, option) for option in options]))
        torch.testing.assert_close(row, -loss.nll / loss.num_tokens)


def test_it_refuses_more_than_its_context(model: WeightedMean) -> None:
    visual, text = make_visual((CONTEXT,), width=model.dim), make_text(model, PROMPTS[:1])
    with pytest.raises(TextLimitError, match="max_position_embeddings of 'weighted mean' is 96"):
        model.generate(visual, text, 1)
