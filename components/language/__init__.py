"""The language model: a Hugging Face causal language model that reads visual tokens between text tokens.

- ``causal``: the part itself, ``HuggingFaceCausalLM``. Start here.
- Loading: ``model_loading``, ``text_part`` (language model of a composite model), ``adapters`` (LoRA).
- Chat: ``chat`` converts conversations to token ids; it uses ``chat_template`` (renders the tokenizer's template),
  ``chat_text`` (splits the text before answers) and ``chat_pieces`` (tokenizes the pieces).
- Input: ``splice`` inserts visual tokens into the text; ``packing`` puts several conversations into one row.
- Answers: ``cached_language_model`` reads prompts into a state, and answers, scores options and reads more from there.
  It uses ``cached_network`` (calls of the network, in step with other ranks), ``kv_cache`` (copies and rows of the
  cache), ``shared_prefix`` (reads what several prompts begin with once) and ``answer_tokens`` (chooses tokens). A new
  language model is a subclass of ``CachedLanguageModel``.
- Checks: ``text_limits`` (ids and length of the context), ``probe`` (whether the model works with embeddings).
"""
