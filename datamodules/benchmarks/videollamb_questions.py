"""The question files of VideoLLaMB: ``test_q.json`` and ``test_a.json``, two lists in the same order.

It has such files for EgoSchema, NExT-QA, EgoPlan and MVBench. They are not the same items as those sets' own files.

Source: https://github.com/bigai-nlco/VideoLLaMB, ``playground/eval/GPT_Zero_Shot_QA``.
"""

from datamodules.benchmarks.question_table import QuestionTable


class VideoLLaMBQuestions(QuestionTable):
    """Reads ``video_name, question_id, question, option {"option 0": ...}`` and ``question_id, answer``.

    The answer is an index. EgoPlan's answers have the text too (``answer_act``), which must be that of the option.
    """
