"""The keys of config.json that change no logits, and RoPE's keys in all their spellings.

A key that is neither here nor in an architecture's tables may change what the model computes, so it is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

# What describes the file, the classes that made it, or a task on top of the logits.
_DESCRIPTION = (
    "_attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash "
    "_flash_attn_2_enabled _name_or_path architectures attn_implementation dtype finetuning_task id2label "
    "is_llama_config label2id num_labels prefix problem_type task_specific_params tokenizer_class torch_dtype "
    "transformers.js_config transformers_version unsloth_fixed unsloth_version"
)
# How a model is called, stored or divided, which leaves the logits as they are but for rounding.
_EXECUTION = (
    "chunk_size_feed_forward gradient_checkpointing output_attentions output_hidden_states output_scores "
    "pretraining_tp reorder_and_upcast_attn return_dict return_dict_in_generate tf_legacy_loss torchscript "
    "use_bfloat16 use_cache"
)
# Dropout and initial values are no part of trained weights.
_TRAINING = (
    "attention_dropout attn_pdrop embd_pdrop hidden_dropout initializer_range resid_pdrop summary_activation "
    "summary_first_dropout summary_proj_to_labels summary_type summary_use_proj"
)
# Special tokens, and the sampling of older files, which `generate` of transformers reads.
_GENERATION = (
    "bad_words_ids begin_suppress_tokens bos_token_id decoder_start_token_id diversity_penalty do_sample "
    "early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty "
    "forced_bos_token_id forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size "
    "num_beam_groups num_beams num_return_sequences pad_token_id remove_invalid_values repetition_penalty "
    "sep_token_id suppress_tokens temperature top_k top_p typical_p"
)
HARMLESS = frozenset(" ".join((_DESCRIPTION, _EXECUTION, _TRAINING, _GENERATION)).split())
# Keys of any architecture that must have this value, null, or be absent. An export does not write them.
NEUTRAL: Mapping[str, object] = {
    "add_cross_attention": False,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
}
ROPE_NEUTRAL: Mapping[str, object] = {"partial_rotary_factor": 1.0, "rope_interleaved": False}
_ROPE_SECTIONS = ("rope_parameters", "rope_scaling")


def without_rope_sections(config_json: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns config.json with rope_theta where older files have it, and what its RoPE has beyond unscaled RoPE.

    Newer files keep RoPE's numbers in `rope_parameters`, older ones its scaling in `rope_scaling`; the kind of scaling
    is `rope_type` or `type`. A section with no other numbers than those of unscaled RoPE is left out.
    """
    plain = dict(config_json)
    wrong = []
    for section in _ROPE_SECTIONS:
        rope = plain.pop(section, None)
        if rope is not None and not isinstance(rope, Mapping):
            wrong.append(f"{section} = {shown(rope)}, and lehr has only RoPE without scaling")
            continue
        for key, value in (rope or {}).items():
            if value is None:
                continue
            if key == "rope_theta":
                if plain.get(key) not in (None, value):
                    wrong.append(f"{section}.{key} = {shown(value)} and {key} = {shown(plain[key])} must be the same")
                plain[key] = value
            elif not (key in ("rope_type", "type") and value == "default") and ROPE_NEUTRAL.get(key) != value:
                wrong.append(f"{section}.{key} = {shown(value)}, and lehr has only RoPE without scaling")
    return plain, wrong


def unknown_keys(plain: Mapping[str, Any], *, known: Collection[str], neutral: Mapping[str, object]) -> list[str]:
    """Returns a line for each key with a value that may change the logits and that lehr does not know."""
    found = []
    for key, value in plain.items():
        if value is None or key in known or key in HARMLESS:
            continue
        if key not in neutral:
            found.append(
                f"{key} = {shown(value)} is unknown to lehr and may change what the model computes; "
                "remove the key if it does not"
            )
        elif value != neutral[key]:
            found.append(f"{key} = {shown(value)}, and lehr has only {shown(neutral[key])}")
    return found


def shown(value: object) -> str:
    """Returns a value as in a JSON file."""
    return json.dumps(value, default=str)
